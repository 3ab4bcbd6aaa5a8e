// What the conversations of both TypeScript SDKs have in common. A script takes a job on stdin and prints a report on
// stdout, both JSON; tests/strangers/test_sdk_clients.py says what they hold and judges it. The SDK judges, too: it
// refuses results that do not fit its types or a tool's output schema.

import { text } from "node:stream/consumers";

const PATIENCE = 20_000; // milliseconds until a wait is given up: a bound, never an expectation

/** `has(job)` gives a connected client and what its SDK does in its own way. */
export async function report(has) {
  const job = JSON.parse(await text(process.stdin));
  const sdk = await has(job);
  const said = await (job.kind === "converse" ? converse(job, sdk) : giveAndTake(job, sdk));
  await sdk.client.close();
  process.stdout.write(JSON.stringify(said));
}

/** What the server says of its own accord: progress, a question (the script has said who answers it), a change. */
async function giveAndTake(job, { call, listen, onToolsChanged }) {
  const progress = [];
  const onprogress = (told) => progress.push([told.progress, told.total, told.message]);
  await call("test_tool_with_progress", {}, { onprogress });
  const elicited = await call("test_elicitation", { message: "Who are you?" });
  const changed = new Promise((resolve, reject) => {
    onToolsChanged(() => resolve(true));
    setTimeout(() => reject(new Error("no change was told")), PATIENCE).unref();
  });
  const subscription = job.mode === "legacy" ? null : await listen({ toolsListChanged: true });
  await call("test_trigger_tool_change", {});
  await changed;
  await subscription?.close();
  return { progress, elicited, changed: true };
}

async function converse(job, { client, version, call, ping, listen }) {
  const answered = async (step, options) => {
    try {
      return { result: await call(...step, options) };
    } catch (error) {
      if (typeof error.code !== "number") throw error;
      return { error: { code: error.code, message: error.message, data: error.data } };
    }
  };
  const inOrder = async (steps) => {
    const answers = [];
    for (const step of steps) answers.push(await answered(step));
    return answers;
  };
  const said = {
    version: version(),
    server: client.getServerVersion() ?? null,
    capabilities: client.getServerCapabilities(),
    tools: await listTools(client),
    calls: await inOrder(job.calls),
    together: [],
  };
  for (const calls of job.together) said.together.push(await Promise.all(calls.map((step) => answered(step))));
  if (job.mode === "legacy") said.ping = await ping();
  else {
    const subscription = await listen({ toolsListChanged: true });
    await subscription.close();
    said.listen = { honored: subscription.honoredFilter };
  }
  await cancelACall(call, job.cancel);
  said.after_cancel = await answered(job.cancel);
  return said;
}

async function listTools(client) {
  const tools = [];
  let cursor;
  do {
    const page = await client.listTools(cursor === undefined ? undefined : { cursor });
    tools.push(...page.tools);
    cursor = page.nextCursor;
  } while (cursor !== undefined);
  return tools;
}

/** Give a request up while it is on its way. */
async function cancelACall(call, step) {
  const control = new AbortController();
  const answer = call(...step, { signal: control.signal }).catch(() => undefined);
  setImmediate(() => control.abort("no longer needed"));
  await answer;
}
