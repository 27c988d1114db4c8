// @ts-check
// Streams of the server, one for all tabs of a browser: HTTP/1.1 leaves a browser six connections. The tab that holds
// the lock reads the stream and passes it on; a hidden tab gives the lock away and hears nothing.

import { refreshSession } from './api.js';
import { signal } from './signals.js';

/**
 * Follows a stream while the tab can be seen.
 * @param {import('./scope.js').Scope} scope
 * @param {string} path under the server, with its query
 * @param {string[]} names the events that count
 * @param {(name: string, data: any) => void} receive
 * @param {{ replays?: boolean }} [options] `replays`: a tab that joins gets the last event at once
 * @returns {{ connected: import('./signals.js').Signal<boolean> }}
 */
export function follow(scope, path, names, receive, { replays = false } = {}) {
    const connected = signal(false);
    const channel = new BroadcastChannel(`jobber ${path}`);
    /** @type {AbortController | null} */
    let turn = null;
    /** @type {[string, any] | null} */
    let last = null;

    channel.onmessage = ({ data: [kind, value] }) => {
        if (kind === 'hello') {
            if (connected.peek()) channel.postMessage(['connected', true]);
            if (last && replays && turn?.signal.aborted === false) channel.postMessage(['event', last]);
            return;
        }
        if (document.hidden) return;
        if (kind === 'connected') connected.value = value;
        if (kind === 'event') {
            connected.value = true;
            receive(value[0], value[1]);
        }
    };
    /** @param {boolean} is */
    const setConnected = (is) => {
        connected.value = is;
        channel.postMessage(['connected', is]);
    };
    /** Reads until it is told to stop. @param {AbortSignal} stop */
    const read = (stop) =>
        new Promise((/** @type {(_: void) => void} */ done) => {
            /** @type {EventSource} */
            let source;
            let timer = 0;
            const open = () => {
                source = new EventSource(path);
                source.onopen = () => setConnected(true);
                source.onerror = () => {
                    setConnected(false);
                    // The browser itself tries again after a broken connection, not after an answer that is an error.
                    if (source.readyState !== EventSource.CLOSED) return;
                    refreshSession();
                    timer = setTimeout(open, 3000);
                };
                for (const name of names) {
                    source.addEventListener(name, (event) => {
                        last = [name, JSON.parse(/** @type {MessageEvent} */ (event).data)];
                        channel.postMessage(['event', last]);
                        receive(name, last[1]);
                    });
                }
            };
            open();
            stop.addEventListener('abort', () => {
                clearTimeout(timer);
                source.close();
                last = null;
                done();
            });
        });
    const begin = () => {
        if (turn || document.hidden) return;
        const mine = (turn = new AbortController());
        channel.postMessage(['hello', null]);
        navigator.locks.request(`jobber ${path}`, { signal: mine.signal }, () => read(mine.signal)).catch(() => {});
    };
    const cease = () => {
        turn?.abort();
        turn = null;
    };
    scope.on(document, 'visibilitychange', () => (document.hidden ? cease() : begin()));
    scope.onEnd(() => {
        cease();
        channel.close();
    });
    begin();
    return { connected };
}
