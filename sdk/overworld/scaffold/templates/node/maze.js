// The simulator: a maze that a seed grows, and a walker in it. It knows nothing of gRPC.

const CELL = 12; // pixels
const MOVES = { north: [-1, 0], east: [0, 1], south: [1, 0], west: [0, -1] };
const WALL = [40, 44, 52];
const FLOOR = [230, 230, 220];
const EXIT = [255, 190, 0];
const WALKER = [30, 80, 220];

export const ACTIONS = Object.keys(MOVES);

// Numbers from 0 to 1 that depend on the seed alone, an unsigned 64-bit BigInt (splitmix64).
export function random(seed) {
  let state = BigInt.asUintN(64, seed);
  return () => {
    state = BigInt.asUintN(64, state + 0x9e3779b97f4a7c15n);
    let word = state;
    word = BigInt.asUintN(64, (word ^ (word >> 30n)) * 0xbf58476d1ce4e5b9n);
    word = BigInt.asUintN(64, (word ^ (word >> 27n)) * 0x94d049bb133111ebn);
    word ^= word >> 31n;
    return Number(word >> 11n) / 2 ** 53;
  };
}

export class Maze {
  // `size` is the number of cells of a side, odd; every second one can be a room.
  constructor(size, seed) {
    this.size = size;
    this.free = new Set();
    this.#grow(random(seed));
    this.walker = this.#place(1, 1);
    this.exit = this.#place(size - 2, size - 2);
    this.#distances = this.#measure();
  }

  #distances;

  // The directions without a wall.
  open() {
    return ACTIONS.filter((action) => this.free.has(this.#beside(this.walker, action)));
  }

  // Walks a cell in an open direction.
  walk(action) {
    this.walker = this.#beside(this.walker, action);
  }

  // Cells to the exit.
  get distance() {
    return this.#distances.get(this.walker);
  }

  // The direction of a shortest way to the exit.
  advice() {
    return this.open().find((action) => this.#distances.get(this.#beside(this.walker, action)) < this.distance);
  }

  // What it looks like from above: RGB, [height, width, 3].
  draw() {
    const side = this.size * CELL;
    const pixels = Buffer.alloc(side * side * 3);
    for (let row = 0; row < side; row++) {
      for (let column = 0; column < side; column++) {
        const place = this.#place(Math.floor(row / CELL), Math.floor(column / CELL));
        const floor = place === this.exit ? EXIT : this.free.has(place) ? FLOOR : WALL;
        pixels.set(place === this.walker ? WALKER : floor, (row * side + column) * 3);
      }
    }
    return { pixels, height: side, width: side };
  }

  #place(row, column) {
    return row * this.size + column;
  }

  #beside(place, action) {
    const [down, right] = MOVES[action];
    return place + down * this.size + right;
  }

  // Depth first, from the first room to those that were not reached, breaking the wall between.
  #grow(chance) {
    const way = [[1, 1]];
    this.free.add(this.#place(1, 1));
    while (way.length) {
      const [row, column] = way.at(-1);
      const next = Object.values(MOVES).filter(([down, right]) => {
        const [there, beyond] = [row + 2 * down, column + 2 * right];
        const inside = Math.min(there, beyond) > 0 && Math.max(there, beyond) < this.size - 1;
        return inside && !this.free.has(this.#place(there, beyond));
      });
      if (!next.length) {
        way.pop();
        continue;
      }
      const [down, right] = next[Math.floor(chance() * next.length)];
      this.free.add(this.#place(row + down, column + right)).add(this.#place(row + 2 * down, column + 2 * right));
      way.push([row + 2 * down, column + 2 * right]);
    }
  }

  // The distance of every free cell to the exit, found in waves.
  #measure() {
    const distances = new Map([[this.exit, 0]]);
    for (const [place, distance] of distances) { // a Map goes on with what is added on the way
      for (const action of ACTIONS) {
        const next = this.#beside(place, action);
        if (this.free.has(next) && !distances.has(next)) distances.set(next, distance + 1);
      }
    }
    return distances;
  }
}
