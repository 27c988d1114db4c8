// What may stand between a browser and the server: a connection that breaks, and a server that tells of a storm.

import http from 'node:http';
import net from 'node:net';

const listening = (server) => new Promise((go) => server.listen(0, '127.0.0.1', () => {
    go(`http://127.0.0.1:${server.address().port}`);
}));

/**
 * Forwards connections to a server. Breaks the first `cuts` of those on which a log comes, each when `after` bytes of it
 * have passed: by bytes and not by time, so that a slow browser does not find the log at its end.
 */
export async function cutting(base, { cuts, after }) {
    const sockets = new Set();
    let made = 0;
    const proxy = net.createServer((client) => {
        const server = net.connect(Number(new URL(base).port), '127.0.0.1');
        let passed = NaN;
        client.on('data', (request) => {
            passed = /^GET \S+\/logs[? ]/.test(request.toString('latin1')) ? 0 : NaN;
        });
        server.on('data', (answer) => {
            passed += answer.length;
            if (!(passed >= after) || made >= cuts) return;
            made++;
            client.destroy();
        });
        for (const [from, to] of [[client, server], [server, client]]) {
            sockets.add(from);
            from.on('error', () => {});
            from.on('close', () => {
                sockets.delete(from);
                to.destroy();
            });
            from.pipe(to);
        }
    });
    const address = await listening(proxy);
    const close = () => {
        proxy.close();
        sockets.forEach((socket) => socket.destroy());
    };
    return { base: address, made: () => made, close };
}

/** Forwards requests to a server, but answers those for its events itself: `perSecond`, of which `next` gives each. */
export async function storming(base, perSecond, next) {
    const timers = new Set();
    let sent = 0;
    const proxy = http.createServer((request, response) => {
        if (request.url !== '/api/v1/events') {
            const headers = { ...request.headers, host: new URL(base).host };
            // The server sees its own address, and must not take the browser for another site.
            if (headers.origin) headers.origin = base;
            const forward = http.request(`${base}${request.url}`, { method: request.method, headers }, (answer) => {
                response.writeHead(answer.statusCode, answer.headers);
                answer.pipe(response);
            });
            forward.on('error', () => response.destroy());
            response.on('close', () => forward.destroy());
            request.pipe(forward);
            return;
        }
        response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' });
        const began = performance.now();
        let written = 0;
        const timer = setInterval(() => {
            let text = '';
            for (const due = ((performance.now() - began) * perSecond) / 1000; written < due; written++) {
                const event = next(sent++);
                text += `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`;
            }
            response.write(text);
        }, 20);
        timers.add(timer);
        response.on('close', () => clearInterval(timer));
    });
    const address = await listening(proxy);
    return {
        base: address,
        sent: () => sent,
        close() {
            timers.forEach(clearInterval);
            proxy.closeAllConnections();
            proxy.close();
        },
    };
}
