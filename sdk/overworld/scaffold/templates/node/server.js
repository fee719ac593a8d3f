// An Overworld env server in JavaScript, written from proto/ alone: one env, frames inline.

import { createHash, randomUUID, timingSafeEqual } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { ReflectionService } from "@grpc/reflection";
import { HealthImplementation } from "grpc-health-check";
import { ID, MAX_FRAME_BYTES, makeSpec, readOptions } from "./env.js";
import { Refusal, quoted } from "./refusal.js";
import { Session, contentOf } from "./session.js";
import { CHECKSUM, h64Raw, strict } from "./wire.js";

const VERSION = JSON.parse(readFileSync(new URL("package.json", import.meta.url), "utf8")).version;
const PROTO = fileURLToPath(new URL("proto", import.meta.url));
const SERVICE = "overworld.v1.EnvService";
const MAX_REQUEST_BYTES = 16 * 1024 * 1024;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
const LEASE = { default: 60, most: 3600 }; // seconds

const definition = loadSync("overworld/v1/env.proto", {
  includeDirs: [PROTO],
  keepCase: true,
  longs: String, // uint64 above 2^53
  enums: String,
  defaults: true,
  oneofs: true,
});

class EnvServer {
  #sessions = new Map(); // name -> Session
  #instance = randomUUID();
  draining = false;

  // Seconds in `lease` as the contract's Duration.
  static #duration(seconds) {
    return { seconds: Math.floor(seconds), nanos: Math.round((seconds % 1) * 1e9) };
  }

  constructor({ slots, expert, tokens }) {
    this.slotsTotal = slots;
    this.expert = expert;
    this.credentials = tokens.map((token) => digest(`Bearer ${token}`));
    this.features = ["prefix", "random_fallback", "checksum", ...(expert ? ["expert"] : [])];
    this.maxResponseBytes = slots * (MAX_FRAME_BYTES + 8192);
  }

  get slotsFree() {
    return this.slotsTotal - [...this.#sessions.values()].reduce((sum, session) => sum + session.slots.length, 0);
  }

  get sessions() {
    return this.#sessions.size;
  }

  GetServerInfo() {
    return {
      instance: this.#instance,
      revision: 1,
      features: this.features,
      transports: ["TRANSPORT_INLINE"],
      versions: { "node-server": VERSION, node: process.versions.node },
      slots_total: this.slotsTotal,
      slots_free: this.slotsFree,
      draining: this.draining,
      max_request_bytes: MAX_REQUEST_BYTES,
      max_response_bytes: this.maxResponseBytes,
      envs: [makeSpec(readOptions(""))],
    };
  }

  Open(request) {
    if (!UUID.test(request.session)) {
      throw new Refusal("REQUEST_INVALID", "session must be a UUID in its 36 characters, such as that of uuid4()");
    }
    const transports = request.transports.length ? request.transports : ["TRANSPORT_INLINE"];
    if (!transports.includes("TRANSPORT_INLINE")) {
      throw new Refusal("FEATURE_MISSING", "none of the transports is offered: list TRANSPORT_INLINE");
    }
    let session = this.#sessions.get(request.session);
    if (session && session.content !== contentOf(request)) {
      throw new Refusal("SESSION_CONFLICT", "another session has this name: choose a new UUID");
    }
    if (!session) {
      session = this.#make(request);
      this.#sessions.set(request.session, session);
    }
    this.#renew(request.session, session);
    const spec = makeSpec(session.options);
    return {
      spec,
      options_json: JSON.stringify(session.options),
      provenance_digest: createHash("sha256")
        .update(JSON.stringify([ID, spec.provenance, session.options]))
        .digest("hex"),
      transport: "TRANSPORT_INLINE",
      lease: EnvServer.#duration(session.lease),
    };
  }

  async Step(request) {
    const session = this.#sessions.get(request.session);
    if (!session) {
      throw new Refusal("SESSION_UNKNOWN", "there is no such session (any more): open it and replay its episodes");
    }
    session.calls += 1; // it does not end while one of them waits
    clearTimeout(session.timer);
    let results;
    try {
      results = await session.step(request.commands);
    } finally {
      session.calls -= 1;
      this.#renew(request.session, session);
    }
    return {
      ...packed(results),
      draining: this.draining,
      lease_left: EnvServer.#duration(session.lease),
    };
  }

  Close(request) {
    this.#end(request.session);
    return {};
  }

  // Whether a call may go on, by its metadata.
  authorise(metadata) {
    if (!this.credentials.length) return;
    const [given] = metadata.get("authorization");
    if (given === undefined) {
      throw new Refusal("TOKEN_MISSING", "send the metadata authorization: Bearer <token>, with this server's token");
    }
    const known = this.credentials.filter((one) => timingSafeEqual(one, digest(given)));
    if (!known.length) throw new Refusal("TOKEN_WRONG", "the bearer token is not this server's: check it");
  }

  #make(request) {
    if (this.draining) throw new Refusal("DRAINING", "the server is shutting down: ask another one");
    if (request.env_id !== ID) throw new Refusal("ENV_UNKNOWN", `there is no env ${quoted(request.env_id)} here, only ${ID}`);
    if (request.slots < 1) throw new Refusal("REQUEST_INVALID", "slots must be 1 or more");
    if (request.fallback !== "FALLBACK_RANDOM" && !Number.isFinite(request.fallback_reward)) {
      throw new Refusal("REQUEST_INVALID", "fallback_reward must be finite");
    }
    if (!["FALLBACK_UNSPECIFIED", "FALLBACK_SKIP", "FALLBACK_RANDOM"].includes(request.fallback)) {
      throw new Refusal("REQUEST_INVALID", `there is no fallback ${request.fallback}: send one of env.proto`);
    }
    const lease = request.lease ? Number(request.lease.seconds) + request.lease.nanos / 1e9 : LEASE.default;
    if (!(lease > 0)) throw new Refusal("REQUEST_INVALID", "lease must be above 0 seconds, or not set");
    if (request.expert && !this.expert) {
      throw new Refusal("EXPERT_NOT_ALLOWED", "the server was not started with --allow-expert: leave expert out");
    }
    const missing = request.required_features.filter((feature) => !this.features.includes(feature));
    if (missing.length) {
      throw new Refusal("FEATURE_MISSING", `the server lacks ${quoted(missing[0])}; it has ${this.features.join(", ")}`);
    }
    const options = readOptions(request.options_json);
    if (request.slots > this.slotsFree) {
      const hint = request.slots > this.slotsTotal ? `it has ${this.slotsTotal} in all` : "try again later";
      throw new Refusal("NO_FREE_SLOTS", `${request.slots} slots were asked for, ${this.slotsFree} are free: ${hint}`);
    }
    const { fallback, fallback_reward, expert } = request;
    const session = new Session(request, { options, fallback, fallback_reward, expert });
    return Object.assign(session, { options, calls: 0, lease: Math.min(lease, LEASE.most) });
  }

  #renew(name, session) {
    clearTimeout(session.timer);
    if (session.calls || this.#sessions.get(name) !== session) return; // the last call's answer renews it; or it was closed
    session.timer = setTimeout(() => this.#end(name), session.lease * 1000);
  }

  #end(name) {
    clearTimeout(this.#sessions.get(name)?.timer);
    this.#sessions.delete(name);
  }
}

// Results as the contract has them: their frames, all of one size, end to end in one block.
function packed(results) {
  const shown = results.filter((result) => result.frame);
  const messages = results.map(({ frame, text, admissible, ...result }) => {
    if (!frame) return result;
    const image = { name: "maze", block: 0, index: shown.findIndex((one) => one.frame === frame) };
    const images = [{ ...image, xxh64: h64Raw(frame.pixels, 0n).toString() }];
    return { ...result, observation: { parts: [{ image: 0 }, { text }], images, admissible } };
  });
  if (!shown.length) return { results: messages };
  const { height, width, pixels } = shown[0].frame;
  const block = { offset: 0, stride: pixels.length, count: shown.length, height, width, channels: 3 };
  return { results: messages, blocks: [block], frames: Buffer.concat(shown.map((result) => result.frame.pixels)) };
}

// A method of EnvServer as a handler of grpc-js.
function handler(server, name) {
  return async (call, callback) => {
    try {
      server.authorise(call.metadata);
      const [checksum = call.request[CHECKSUM]] = call.metadata.get("overworld-checksum");
      if (checksum !== call.request[CHECKSUM]) throw new Refusal("CORRUPTED", "the request changed on its way: send it again");
      callback(null, await server[name](call.request));
    } catch (error) {
      if (!(error instanceof Refusal)) console.error(error);
      callback(error instanceof Refusal ? error : { code: grpc.status.INTERNAL, details: String(error) });
    }
  };
}

const digest = (text) => createHash("sha256").update(text).digest();

// The tokens that are accepted: one, or those of a file of lines `client: token`.
function readTokens() {
  const { OVERWORLD_TOKEN: token, OVERWORLD_TOKEN_FILE: file, OVERWORLD_TOKENS: clients } = process.env;
  if (!clients) return [token || (file ? readFileSync(file, "utf8").trim() : "")].filter(Boolean);
  const lines = readFileSync(clients, "utf8").split("\n").filter(Boolean);
  return lines.map((line) => line.slice(line.indexOf(":") + 1).trim());
}

// TLS where OVERWORLD_TLS names a folder with tls.crt and tls.key; with a ca.crt, clients must show a certificate of its.
function readCredentials() {
  const folder = process.env.OVERWORLD_TLS;
  if (!folder) return grpc.ServerCredentials.createInsecure();
  const [chain, key, authority] = ["tls.crt", "tls.key", "ca.crt"].map((name) => join(folder, name));
  const pair = { cert_chain: readFileSync(chain), private_key: readFileSync(key) };
  const ca = existsSync(authority) ? readFileSync(authority) : null;
  return grpc.ServerCredentials.createSsl(ca, [pair], ca !== null);
}

async function main() {
  const { values } = parseArgs({
    options: {
      host: { type: "string", default: "127.0.0.1" },
      port: { type: "string", default: "50051" },
      slots: { type: "string", default: "64" },
      "allow-expert": { type: "boolean", default: false },
      insecure: { type: "boolean", default: false },
      "health-port": { type: "string" },
      grace: { type: "string", default: "30" }, // seconds that sessions have to end once the server is told to
    },
  });
  const tokens = readTokens();
  const slots = Number(values.slots);
  if (!Number.isInteger(slots) || slots < 1) throw new Error(`--slots must be 1 or more, not ${values.slots}`);
  if (!["127.0.0.1", "localhost", "::1"].includes(values.host) && !tokens.length && !values.insecure) {
    throw new Error("beyond loopback the server needs a token (OVERWORLD_TOKEN, OVERWORLD_TOKEN_FILE or OVERWORLD_TOKENS), or --insecure");
  }
  const envServer = new EnvServer({ slots, expert: values["allow-expert"], tokens });
  const server = new grpc.Server({
    "grpc.max_receive_message_length": MAX_REQUEST_BYTES,
    "grpc.max_send_message_length": -1,
  });
  const methods = Object.entries(definition[SERVICE]);
  server.addService(
    Object.fromEntries(methods.map(([name, method]) => [name, strict(method, PROTO)])),
    Object.fromEntries(methods.map(([name]) => [name, handler(envServer, name)])),
  );
  const health = new HealthImplementation({ "": "SERVING", [SERVICE]: "SERVING" });
  health.addToServer(server);
  new ReflectionService(definition).addToServer(server);
  const address = values.host.includes(":") ? `[${values.host}]` : values.host;
  const port = await new Promise((resolve, reject) => {
    server.bindAsync(`${address}:${values.port}`, readCredentials(), (error, bound) => (error ? reject(error) : resolve(bound)));
  });
  console.log(`overworld: ${ID}, ${slots} slots, listening on ${address}:${port}`);

  if (values["health-port"]) { // for probes that do not speak gRPC over TLS
    createServer((_, response) => response.writeHead(envServer.draining ? 503 : 200).end()).listen(
      Number(values["health-port"]),
      values.host,
    );
  }

  const drain = () => {
    if (envServer.draining) return;
    envServer.draining = true;
    for (const name of ["", SERVICE]) health.setStatus(name, "NOT_SERVING");
    const deadline = Date.now() + Number(values.grace) * 1000;
    const waiting = setInterval(() => {
      if (envServer.sessions && Date.now() < deadline) return;
      clearInterval(waiting);
      server.forceShutdown();
      process.exit(0);
    }, 100);
  };
  process.on("SIGTERM", drain).on("SIGINT", drain);
}

main().catch((error) => {
  console.error(`node-server: ${error.message}`);
  process.exit(1);
});
