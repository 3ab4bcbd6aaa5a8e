// The official TypeScript SDK, version 2, as a client over HTTP. The job's `mode`: `legacy` shakes hands, `auto` asks
// first, a version is what it insists on.

import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { report } from "./conversation.mjs";

await report(async (job) => {
  const mode = ["legacy", "auto"].includes(job.mode) ? job.mode : { pin: job.mode };
  const options = { capabilities: { elicitation: {} }, versionNegotiation: { mode } };
  const client = new Client({ name: "typescript2", version: "1" }, options);
  client.setRequestHandler("elicitation/create", async () => ({ action: "accept", content: job.filled_in }));
  await client.connect(new StreamableHTTPClientTransport(new URL(job.url)));
  return {
    client,
    version: () => client.getNegotiatedProtocolVersion(),
    call: (name, args, options) => client.callTool({ name, arguments: args }, options),
    ping: () => client.ping(),
    listen: (filter) => client.listen(filter),
    onToolsChanged: (heard) => client.setNotificationHandler("notifications/tools/list_changed", heard),
  };
});
