// The official TypeScript SDK, version 2, as a client over HTTP. The job's `mode`: `legacy` shakes hands, `auto` asks
// first, a version is what it insists on.

import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { report } from "./conversation.mjs";

await report(async (job) => {
  const mode = ["legacy", "auto"].includes(job.mode) ? job.mode : { pin: job.mode };
  const client = new Client({ name: "typescript2", version: "1" }, { versionNegotiation: { mode } });
  await client.connect(new StreamableHTTPClientTransport(new URL(job.url)));
  return {
    client,
    version: () => client.getNegotiatedProtocolVersion(),
    call: (name, args, options) => client.callTool({ name, arguments: args }, options),
    ping: () => client.ping(),
    listen: async (filter) => {
      const subscription = await client.listen(filter);
      await subscription.close();
      return subscription.honoredFilter;
    },
  };
});
