// The official TypeScript SDK, version 1, as a client over HTTP.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { ElicitRequestSchema, ToolListChangedNotificationSchema } from "@modelcontextprotocol/sdk/types.js";
import { report } from "./conversation.mjs";

await report(async (job) => {
  const client = new Client({ name: "typescript1", version: "1" }, { capabilities: { elicitation: {} } });
  client.setRequestHandler(ElicitRequestSchema, async () => ({ action: "accept", content: job.filled_in }));
  const transport = new StreamableHTTPClientTransport(new URL(job.url));
  await client.connect(transport);
  return {
    client,
    version: () => transport.protocolVersion,
    call: (name, args, options) => client.callTool({ name, arguments: args }, undefined, options),
    ping: () => client.ping(),
    onToolsChanged: (heard) => client.setNotificationHandler(ToolListChangedNotificationSchema, heard),
  };
});
