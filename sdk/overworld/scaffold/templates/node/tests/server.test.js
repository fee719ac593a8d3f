// The server follows the contract, and its env is fit to be learnt in.

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

for (const command of ["check", "audit"]) {
  test(`overworld ${command} finds nothing wrong`, () => {
    const { status, stdout, stderr, error } = spawnSync("overworld", [command, address], { encoding: "utf8" });
    assert.strictEqual(status, 0, error ?? stdout + stderr);
  });
}
