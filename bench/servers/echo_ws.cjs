// Node's ws: `node echo_ws.cjs PORT PING COMPRESSED`.
//
// Its defaults (100 MiB as the largest message, no compression unless it is measured), and bufferutil beside it. Pings and the broadcast
// are those of its README. ws uses bufferutil by itself when it is installed.
'use strict';

const { WebSocket, WebSocketServer } = require('ws');

const [port, ping, compressed] = process.argv.slice(2).map(Number);
const server = new WebSocketServer({ host: '127.0.0.1', port, backlog: 4096, perMessageDeflate: Boolean(compressed) });
const subscribers = new Set();

server.on('connection', (socket, request) => {
  socket.on('error', () => {});
  if (ping) {
    socket.isAlive = true;
    socket.on('pong', () => { socket.isAlive = true; });
  }
  if (request.url === '/subscribe') {
    subscribers.add(socket);
    socket.on('close', () => subscribers.delete(socket));
  } else if (request.url === '/publish') {
    socket.on('message', (data, isBinary) => {
      for (const each of subscribers) {
        if (each.readyState === WebSocket.OPEN) each.send(data, { binary: isBinary });
      }
    });
  } else {
    socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
  }
});

if (ping) {
  setInterval(() => {
    for (const socket of server.clients) {
      if (!socket.isAlive) { socket.terminate(); continue; }
      socket.isAlive = false;
      socket.ping();
    }
  }, ping * 1000);
}
