// The official TypeScript SDK, version 1, as a client over HTTP.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { report } from "./conversation.mjs";

await report(async (job) => {
  const client = new Client({ name: "typescript1", version: "1" });
  const transport = new StreamableHTTPClientTransport(new URL(job.url));
  await client.connect(transport);
  return {
    client,
    version: () => transport.protocolVersion,
    call: (name, args, options) => client.callTool({ name, arguments: args }, undefined, options),
    ping: () => client.ping(),
  };
});
