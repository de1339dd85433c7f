// A client of node's TLS: client.js PROTOCOL HOST PREFIX COUNT, where PROTOCOL is 1.1 or 2. GET and POST take turns.
'use strict';
const fs = require('fs');
const https = require('https');
const http2 = require('http2');

const [protocol, host, prefix, count] = process.argv.slice(2);
const ca = fs.readFileSync('/etc/ca.pem');
const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
const session = protocol === '2' ? http2.connect(`https://${host}`, { ca }) : undefined;

function one(path, method, body) {
  return new Promise((resolve, reject) => {
    const request = session
      ? session.request({ ':method': method, ':path': path })
      : https.request({ host, path, method, ca, agent });
    request.on('error', reject);
    const drain = (answer) => { answer.on('end', resolve); answer.resume(); };
    if (session) drain(request); else request.on('response', drain);
    request.end(body);
  });
}

async function main() {
  for (let number = 0; number < Number(count); number++) {
    await one(`${prefix}/${number}`, number % 2 ? 'POST' : 'GET', number % 2 ? 'x' : undefined);
  }
  if (session) session.close();
  agent.destroy();
}

main().catch((error) => { console.error(error); process.exit(1); });
