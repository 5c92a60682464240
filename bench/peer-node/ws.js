// A peer for measurements: ws, the usual websocket library of Node. Usage: node ws.js PORT
// A text {"echo": ...} is answered to its sender, every other one goes to everyone. Nothing is stored.
import { WebSocketServer, WebSocket } from "ws";

const server = new WebSocketServer({ host: "127.0.0.1", port: Number(process.argv[2]), backlog: 4096 });

server.on("connection", (client) => {
  client.on("message", (data) => {
    const message = JSON.parse(data);
    const text = JSON.stringify(message);
    if ("echo" in message) return client.send(text);
    for (const other of server.clients) if (other.readyState === WebSocket.OPEN) other.send(text);
  });
});
