// SPDX-License-Identifier: Apache-2.0
// A stock Connect client, generated from proto/hostagent.proto, against our server:
//   node client.mjs SOCKET
// "event" on standard output asks the caller for an event of the host.
import assert from "node:assert/strict";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import * as pb from "./gen/hostagent_pb.js";

const transport = createConnectTransport({
  baseUrl: "http://host",
  httpVersion: "1.1",
  useBinaryFormat: false,
  nodeOptions: { socketPath: process.argv[2] },
});
const client = createClient(pb.HostAgent, transport);
const uuid = () => crypto.randomUUID();
const big = 18446744073709551615n;

async function fails(promise, code) {
  try {
    await promise;
  } catch (error) {
    const e = ConnectError.from(error);
    assert.equal(Code[e.code], Code[code], e.message);
    return e;
  }
  assert.fail(`no error, expected ${Code[code]}`);
}

const tests = {
  async "a create and its answer"() {
    const { sandbox } = await client.createSandbox({
      operationId: uuid(),
      sandboxId: "inew",
      template: "base",
      vcpus: 2,
      endsAtNs: 1764086400123456789n,
      onTimeout: pb.OnTimeout.PAUSE,
      token: "secret",
      env: { A: "1", "é": "\"\n" },
    });
    assert.equal(sandbox.id, "inew");
    assert.equal(sandbox.state, pb.SandboxState.RUNNING);
    assert.equal(sandbox.endsAtNs, big);
    assert.equal(sandbox.onTimeout, pb.OnTimeout.PAUSE);
    assert.equal(sandbox.detail, "a \"quoted\"\né text");
    assert.deepEqual(sandbox.phases.map((p) => [p.name, p.us]), [["slot", 12n], ["boot", 3400n]]);
  },

  async "each unary call"() {
    const op = { operationId: uuid(), sandboxId: "ibox" };
    const snapshotId = uuid();
    assert.equal((await client.pauseSandbox(op)).sandbox.id, "ibox");
    assert.equal((await client.resumeSandbox({ ...op, diskOnly: true })).sandbox.id, "ibox");
    assert.equal((await client.rollbackSandbox({ ...op, snapshotId })).sandbox.id, "ibox");
    assert.equal((await client.createSnapshot({ ...op, snapshotId })).snapshot.memoryBytes, 1n << 33n);
    await client.deleteSnapshot({ operationId: uuid(), snapshotId });
    await client.setTimeout({ ...op, endsAtNs: 5n });
    assert.equal((await client.getSandbox({ sandboxId: "ibox" })).sandbox.vcpus, 2);
    assert.equal((await client.listSandboxes({})).sandboxes.length, 3);
    assert.equal((await client.listSnapshots({})).snapshots.length, 2);
    assert.equal((await client.checkSnapshot({ snapshotId })).resumes, false);
    assert.equal((await client.listTemplates({})).templates[0].name, "base");
    assert.equal((await client.getAddress({ sandboxId: "ibox" })).address, "10.213.0.9");
    const host = await client.getHost({});
    assert.equal(host.host.isolation, "kvm");
    assert.equal(host.host.diskTotal, 1n << 40n);
    assert.equal(host.templates[0].frozen, true);
    assert.equal((await client.getHost({ omitTemplates: true })).templates.length, 0);
    await client.drain({ operationId: uuid(), enabled: true });
    assert.match((await client.getMetrics({})).text, /stasis_fake 1/);
    await client.destroySandbox({ ...op, cause: "killed" });
  },

  async "errors with their details"() {
    const e = await fails(client.getSandbox({ sandboxId: "inospace" }), Code.ResourceExhausted);
    assert.equal(e.rawMessage, "the disk is full");
    assert.equal(e.findDetails(pb.ErrorInfoSchema)[0].code, "no_space");
    await fails(client.getSandbox({ sandboxId: "../etc" }), Code.InvalidArgument);
    await fails(client.getSandbox({}), Code.InvalidArgument);
    await fails(client.createSandbox({
      operationId: uuid(), sandboxId: "ibox", env: { A: "x".repeat(10 << 20) },
    }), Code.ResourceExhausted);
  },

  async "a time-out is kept"() {
    const op = { operationId: uuid(), sandboxId: "ihangs" };
    await fails(client.pauseSandbox(op, { timeoutMs: 200 }), Code.DeadlineExceeded);
    // By the server too, whose client waits longer.
    const r = await new Promise((resolve) => import("node:http").then((http) => {
      const q = http.request({
        socketPath: process.argv[2], method: "POST",
        path: "/stasis.host.v1.HostAgent/PauseSandbox",
        headers: { "Content-Type": "application/json", "Connect-Timeout-Ms": "100" },
      }, resolve);
      q.end(JSON.stringify(op));
    }));
    assert.equal(r.statusCode, 504);
    r.resume();
  },

  async "a fork, child by child"() {
    const children = ["ione", "itwo", "ithree"].map((sandboxId) => ({
      operationId: uuid(), sandboxId, token: sandboxId === "itwo" ? "bad" : "t",
    }));
    const seen = [];
    for await (const m of client.forkSandbox({ operationId: uuid(), sandboxId: "ibox", children }))
      seen.push([m.sandboxId, m.outcome.case,
        m.outcome.case === "error" ? m.outcome.value.code : m.outcome.value.id]);
    assert.deepEqual(seen, [["ithree", "sandbox", "ithree"], ["itwo", "error", "no_space"],
      ["ione", "sandbox", "ione"]]);
    await fails((async () => {
      for await (const _ of client.forkSandbox({ operationId: uuid(), sandboxId: "ibox" }))
        assert.fail();
    })(), Code.InvalidArgument);
  },

  async "the console"() {
    let text = "";
    for await (const m of client.readLog({ sandboxId: "ibox", offset: 3n }))
      text += new TextDecoder().decode(m.data);
    assert.equal(text, "sole\n");
  },

  async "events as they happen, and their end"() {
    const seen = [];
    const stop = new AbortController();
    console.log("event");
    try {
      for await (const m of client.watchEvents({ after: 0n }, { signal: stop.signal })) {
        for (const e of m.events)
          seen.push([e.seq, e.kind, e.sandboxId, e.data?.n]);
        if (seen.length === 3)
          stop.abort();
        console.log("event");
      }
    } catch (error) {
      assert.equal(ConnectError.from(error).code, Code.Canceled);
    }
    assert.deepEqual(seen, [[1n, "running", "ibox", 1], [2n, "running", "ibox", undefined],
      [3n, "running", "ibox", 3]]);
    await client.ackEvents({ upto: 2n });
    const page = await client.listEvents({ after: 0n, max: 1 });
    assert.deepEqual(page.events.map((e) => e.seq), [3n]);
  },
};

for (const [name, run] of Object.entries(tests)) {
  await run();
  console.log(`passed: ${name}`);
}
process.exit(0); // kept connections would hold it
