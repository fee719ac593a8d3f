// The server follows the contract.

import assert from "node:assert";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";

let server, address;

before(async () => {
  server = spawn(process.execPath, ["server.js", "--port=0", "--allow-expert"], { stdio: ["ignore", "pipe", "inherit"] });
  const [line] = await once(createInterface(server.stdout), "line");
  address = line.match(/listening on (\S+)/)[1];
});

after(() => server.kill("SIGKILL"));

test("overworld check finds no rule broken", () => {
  const { status, stdout, stderr } = spawnSync("overworld", ["check", address], { encoding: "utf8" });
  assert.strictEqual(status, 0, stdout + stderr);
});
