// A peer for measurements: Socket.IO over websockets. Usage: node socketio.js PORT
// "echo" is answered to its sender, "say" goes to the room that everyone is in. Nothing is stored.
import { Server } from "socket.io";

const server = new Server({ transports: ["websocket"], pingInterval: 25000, pingTimeout: 20000 });

server.on("connection", (client) => {
  client.join("room");
  client.on("echo", (data) => client.emit("echo", data));
  client.on("say", (data) => server.to("room").emit("say", data));
});

server.listen(Number(process.argv[2]));
