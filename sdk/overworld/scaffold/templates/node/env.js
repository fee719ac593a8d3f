// The env: the maze's spec, and one slot's episodes in it under the contract's rules of turns, fallbacks and ends.

import { setImmediate } from "node:timers/promises";
import { Maze, ACTIONS, random } from "./maze.js";
import { Refusal, quoted } from "./refusal.js";

export const ID = "maze/Escape";
const SIZES = { minimum: 5, maximum: 15, default: 9 };
const TURNS = { minimum: 1, maximum: 1000, default: 40 };
const SPLITS = { endless: 0, twenty: 20 };
const STEP_COST = -0.01;
const MAX_TEXT_BYTES = 4096;
const MAX_REPLY_BYTES = 65536;
const SCHEMA = {
  type: "object",
  properties: {
    size: { type: "integer", ...SIZES, not: { multipleOf: 2 }, description: "cells of a side; odd" },
    max_turns: { type: "integer", ...TURNS, description: "turns after which the host ends an episode" },
  },
  additionalProperties: false,
};
export const MAX_FRAME_BYTES = (SIZES.maximum * 12) ** 2 * 3;

// The complete options that a client's JSON means.
export function readOptions(text) {
  let given;
  try {
    given = JSON.parse(text || "{}");
  } catch (error) {
    throw new Refusal("OPTIONS_INVALID", `options_json is not JSON (${quoted(error.message)}): send an object, or nothing`);
  }
  if (given === null || typeof given !== "object" || Array.isArray(given)) {
    throw new Refusal("OPTIONS_INVALID", "options_json must be a JSON object, such as {}");
  }
  const unknown = Object.keys(given).filter((name) => !Object.hasOwn(SCHEMA.properties, name));
  if (unknown.length) {
    const known = Object.keys(SCHEMA.properties).join(", ");
    throw new Refusal("OPTIONS_INVALID", `${ID} has no option ${quoted(unknown[0])}; it has ${known}`);
  }
  const options = { size: SIZES.default, max_turns: TURNS.default, ...given };
  for (const [name, { minimum, maximum }] of [["size", SIZES], ["max_turns", TURNS]]) {
    if (!Number.isInteger(options[name]) || options[name] < minimum || options[name] > maximum) {
      throw new Refusal("OPTIONS_INVALID", `option ${name} must be an integer from ${minimum} to ${maximum}`);
    }
  }
  if (options.size % 2 === 0) throw new Refusal("OPTIONS_INVALID", "option size must be odd");
  return options;
}

export function makeSpec(options) {
  return {
    id: ID,
    task: "You are the blue square in a maze seen from above. Walk to the yellow square.",
    success: "The walker reached the exit.",
    action: { vocabulary: ACTIONS },
    max_turns: options.max_turns,
    reward_min: STEP_COST,
    reward_max: 1,
    options_schema: JSON.stringify(SCHEMA),
    splits: SPLITS,
    default_split: "endless",
    has_expert: true,
    pixels_reproducible: "always",
    provenance: { rules: "maze 1", renderer: "maze 1" },
  };
}

// Refuses an action that this env cannot have been meant to get (rule A1).
export function checkAction(action) {
  if (Buffer.byteLength(action.reply) > MAX_REPLY_BYTES) {
    throw new Refusal("ACTION_TOO_LARGE", `a reply has more than ${MAX_REPLY_BYTES} bytes: shorten it`);
  }
  if (action.value === "tensor") throw new Refusal("REQUEST_INVALID", `${ID} takes texts or indices, no tensors`);
  if (action.value === "text" && Buffer.byteLength(action.text) > MAX_TEXT_BYTES) {
    throw new Refusal("ACTION_TOO_LARGE", `an action has more than ${MAX_TEXT_BYTES} bytes: send one of ${ACTIONS}`);
  }
}

// Refuses a reset of an episode that there is not.
export function checkReset(reset, options) {
  const split = reset.split || "endless";
  if (!Object.hasOwn(SPLITS, split)) {
    throw new Refusal("SPLIT_UNKNOWN", `${ID} has no split ${quoted(split)}; it has ${Object.keys(SPLITS).join(", ")}`);
  }
  if (reset._task && BigInt(reset.task) >= BigInt(SPLITS[split])) {
    const size = SPLITS[split] ? `${SPLITS[split]} tasks, from 0` : "no numbered tasks: leave the task out";
    throw new Refusal("TASK_UNKNOWN", `split ${split} has ${size}`);
  }
  if (reset.prefix.length > options.max_turns) {
    throw new Refusal("REQUEST_INVALID", `a prefix has at most max_turns actions, here ${options.max_turns}`);
  }
  reset.prefix.forEach(checkAction);
}

// A command that fails within the server, with a reason of the README's table.
export class Failure extends Error {
  constructor(reason, message) {
    super(message);
    this.reason = reason;
  }
}

const folded = (text) => text.trim().replace(/\s+/g, " ").replace(/[A-Z]/g, (letter) => letter.toLowerCase());

export class Episode {
  // An episode at its start. `rules` are those of the session: options, fallback, fallback_reward, expert.
  constructor(reset, rules) {
    const split = reset.split || "endless";
    const task = SPLITS[split] && (reset._task ? BigInt(reset.task) : BigInt(reset.seed) % BigInt(SPLITS[split]));
    this.rules = rules;
    this.seed = BigInt(reset.seed);
    this.maze = new Maze(rules.options.size, SPLITS[split] ? task + (1n << 63n) : this.seed);
    this.turn = 0;
    this.over = false;
    this.last = { reward: 0, outcome: "OUTCOME_UNSPECIFIED" };
  }

  // Replays a reset's prefix.
  async replay(prefix) {
    for (const action of prefix) {
      if (this.over) {
        const message = `the episode ended at turn ${this.turn}, the prefix has ${prefix.length} actions`;
        throw new Failure("PREFIX_TOO_LONG", message);
      }
      await this.act(action);
    }
  }

  // Makes the next turn. Other calls get their turn in between, as they would with a simulator that waits for something.
  async act(action) {
    await setImmediate();
    const { fallback, fallback_reward, options } = this.rules;
    const meant = { index: ACTIONS[action.index], text: ACTIONS.find((one) => one === folded(action.text ?? "")) };
    let executed = this.maze.open().find((one) => one === meant[action.value]);
    const given = action.value ? "OUTCOME_NOT_ADMISSIBLE" : "OUTCOME_NO_ACTION";
    const outcome = executed ? "OUTCOME_EXECUTED" : given;
    if (!executed && fallback === "FALLBACK_RANDOM") {
      const open = this.maze.open();
      executed = open[Math.floor(random(this.seed ^ (BigInt(this.turn + 1) << 32n))() * open.length)];
    }
    this.turn += 1;
    if (executed) this.maze.walk(executed);
    const success = this.maze.distance === 0;
    this.over = success || this.turn === options.max_turns;
    this.last = {
      reward: executed ? (success ? 1 : STEP_COST) : fallback_reward,
      outcome,
      executed: executed && { text: executed },
      ...(this.over && { end: success ? "END_TASK" : "END_TIME_LIMIT", success, terminated: success, truncated: !success }),
    };
  }

  // The result of the last turn.
  look() {
    const frame = this.maze.draw();
    const expert = this.rules.expert && !this.over && {
      action: { text: this.maze.advice() },
      thoughts: `The exit is ${this.maze.distance} cells away; a shortest way goes ${this.maze.advice()}.`,
    };
    return {
      ...this.last,
      frame,
      admissible: this.maze.open(),
      text: `Open: ${this.maze.open().join(", ")}.`,
      metrics: { distance: this.maze.distance },
      ...(expert && { expert }),
    };
  }
}
