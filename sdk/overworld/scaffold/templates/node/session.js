// A session: its slots, each with the last command and its result, which is all that the contract's table needs.

import { Episode, Failure, checkAction, checkReset } from "./env.js";
import { Refusal } from "./refusal.js";

// The order of names: episode first, then turn. Episodes are unsigned 64-bit numbers in decimal.
function compare(one, other) {
  const [a, b] = [BigInt(one.episode), BigInt(other.episode)];
  return a === b ? one.turn - other.turn : a < b ? -1 : 1;
}

class Slot {
  // Of its last command: the content as text, the name, and a promise of the result. `busy` while it runs.
  #content = null;
  #name = null;
  #result = null;
  #busy = false;
  #episode = null; // null if it failed

  constructor(rules) {
    this.rules = rules;
  }

  // Refuses a command that must not be executed; says whether it is the last one again.
  check(command) {
    const where = `slot ${command.slot}, episode ${command.episode}, turn ${command.turn}`;
    const order = this.#name ? compare(command, this.#name) : 1;
    if (order === 0) {
      if (JSON.stringify(command) === this.#content) return true;
      throw new Refusal("CONFLICT", `${where}: another command had this name; a new one needs the next turn`);
    }
    if (order < 0) {
      const { episode, turn } = this.#name;
      throw new Refusal("STALE", `${where}: the slot is at episode ${episode}, turn ${turn}; go on from there`);
    }
    if (this.#busy) throw new Refusal("BUSY", `${where}: the last command still runs; send it again for its result`);
    const running = this.#name !== null && command.episode === this.#name.episode;
    if (command.kind === "reset") {
      if (running) throw new Refusal("REQUEST_INVALID", `${where}: a reset needs an episode above the slot's last one`);
      if (command.turn !== command.reset.prefix.length) {
        throw new Refusal("TURN_SKIPPED", `${where}: the turn of a reset is the length of its prefix`);
      }
      checkReset(command.reset, this.rules.options);
      return false;
    }
    if (!running || !this.#episode) throw new Refusal("NOT_RESET", `${where}: there is no such episode; reset the slot`);
    if (this.#episode.over) throw new Refusal("EPISODE_ENDED", `${where}: the episode is over; reset the slot`);
    if (command.turn > this.#name.turn + 1) {
      throw new Refusal("TURN_SKIPPED", `${where}: the next turn is ${this.#name.turn + 1}`);
    }
    checkAction(command.action);
    return false;
  }

  // Begins to execute a command that was checked, whether or not somebody waits for the result.
  execute(command) {
    this.#content = JSON.stringify(command);
    this.#name = { slot: command.slot, episode: command.episode, turn: command.turn };
    this.#busy = true;
    this.#result = this.#run(command).finally(() => (this.#busy = false));
  }

  // A promise of the last command's result.
  get result() {
    return this.#result;
  }

  async #run(command) {
    const name = this.#name;
    const started = process.hrtime.bigint();
    try {
      if (command.kind === "reset") {
        this.#episode = new Episode(command.reset, this.rules);
        await this.#episode.replay(command.reset.prefix);
      } else {
        await this.#episode.act(command.action);
      }
      const seen = this.#episode.look();
      const micros = Number((process.hrtime.bigint() - started) / 1000n);
      return { ...name, state: "SLOT_STATE_READY", ...seen, micros };
    } catch (failure) {
      this.#episode = null;
      if (!(failure instanceof Failure)) console.error(failure);
      const error = { reason: failure.reason ?? "ENV_ERROR", message: String(failure.message), reset_helps: true };
      return { ...name, state: "SLOT_STATE_FAILED", error };
    }
  }
}

export class Session {
  // `request` is the OpenRequest; `rules` are what an Episode takes.
  constructor(request, rules) {
    this.slots = Array.from({ length: request.slots }, () => new Slot(rules));
    this.content = contentOf(request);
  }

  // The results of a batch, which is checked whole before any slot moves.
  async step(commands) {
    const named = new Set();
    for (const command of commands) {
      if (command.slot >= this.slots.length) {
        throw new Refusal("SLOT_UNKNOWN", `there is no slot ${command.slot}: the session has ${this.slots.length}, from 0`);
      }
      if (named.has(command.slot)) throw new Refusal("SLOT_REPEATED", `two commands name slot ${command.slot}: send one`);
      if (!command.kind) throw new Refusal("REQUEST_INVALID", `the command for slot ${command.slot} is empty: reset or act`);
      named.add(command.slot);
    }
    const fresh = commands.filter((command) => !this.slots[command.slot].check(command));
    for (const command of fresh) this.slots[command.slot].execute(command);
    return Promise.all(commands.map((command) => this.slots[command.slot].result));
  }
}

// What a repeated Open must be equal in: everything but the transports (rule O3).
export function contentOf({ transports, ...rest }) {
  return JSON.stringify(rest);
}
