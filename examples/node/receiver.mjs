// Takes what Postback pushes, and believes nothing that is not signed.
//
//     npm ci
//     WEBHOOK_SECRET=whsec_... PORT=5000 node receiver.mjs
import { createServer } from "node:http";
import { Webhook } from "standardwebhooks";

const webhook = new Webhook(process.env.WEBHOOK_SECRET);
// In a database, in earnest: what comes comes at least once, and in any order.
const seen = new Set();

const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  let event;
  try {
    // The bytes as they came, before anything reads them.
    event = webhook.verify(Buffer.concat(chunks).toString(), request.headers);
  } catch (error) {
    return response.writeHead(400).end(error.message);
  }
  const id = request.headers["webhook-id"];
  if (seen.has(id)) return response.end("seen before");
  const task = event.data;
  console.log(event.type, task.task_id, task.images.map((image) => image.url));
  // Only now: what is not remembered may come again.
  seen.add(id);
  response.end("thanks");
});

server.listen(process.env.PORT ?? 5000, "127.0.0.1");
