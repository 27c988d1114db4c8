// @ts-check
// Follows a job's log. It does not use EventSource, which can't be told where to go on: a hidden tab ends its
// connection, and later continues behind the last event that it took, as after a broken connection.

import { Problem, refreshSession } from './api.js';
import { SseReader } from './loglines.js';
import { signal } from './signals.js';

/** @typedef {'connecting' | 'live' | 'broken' | 'paused' | 'ended' | 'refused'} Status */

/** For how long to read before the page gets its turn, in ms. */
const SLICE = 8;
/** The id of the last event: who gives it back learns only that there is no more. */
const END = 'end';

/**
 * @param {import('./scope.js').Scope} scope
 * @param {(event: any) => void} receive gets each event once, but for those that the server tells again: the end of the
 *   running attempt, progress and state
 */
export function logStream(scope, receive) {
    const status = signal(/** @type {Status} */ ('connecting'));
    const problem = signal(/** @type {Problem | null} */ (null));
    let target = '';
    /** The id of the last event that was taken, but for END. */
    let last = '';
    let isOver = true;
    /** @type {AbortController | null} */
    let turn = null;

    /** Reads one connection to its end. @param {AbortSignal} stop */
    async function read(stop) {
        const response = await fetch(target, {
            signal: stop,
            credentials: 'same-origin',
            headers: { Accept: 'text/event-stream', ...(last ? { 'Last-Event-ID': last } : {}) },
        });
        if (!response.ok || !response.body) throw new Problem(response.status, await response.json().catch(() => ({})));
        status.value = 'live';
        const reader = response.body.getReader();
        const decoder = new TextDecoder();
        const events = new SseReader();
        let begin = performance.now();
        for (;;) {
            const { done, value } = await reader.read();
            if (done || stop.aborted) return;
            for (const { id, data } of events.read(decoder.decode(value, { stream: true }))) {
                receive(JSON.parse(data));
                if (id === END) isOver = true;
                else last = id;
                if (performance.now() - begin < SLICE) continue;
                await new Promise((go) => setTimeout(go));
                if (stop.aborted) return;
                begin = performance.now();
            }
        }
    }

    async function run() {
        turn?.abort();
        if (isOver || document.hidden) return;
        const mine = (turn = new AbortController());
        scope.onEnd(() => mine.abort());
        for (let pause = 100; ; pause = Math.min(pause * 2, 8000)) {
            const before = last;
            try {
                await read(mine.signal);
            } catch (error) {
                if (mine.signal.aborted) return;
                if (error instanceof Problem && error.status >= 400 && error.status < 500) {
                    problem.value = error;
                    status.value = 'refused';
                    isOver = true;
                    if (error.status === 401) refreshSession();
                    return;
                }
            }
            if (mine.signal.aborted) return;
            if (isOver) {
                status.value = 'ended';
                return;
            }
            status.value = 'broken';
            if (last !== before) pause = 100;
            await new Promise((go) => setTimeout(go, pause));
            if (mine.signal.aborted) return;
        }
    }

    scope.on(document, 'visibilitychange', () => {
        if (isOver) return;
        if (document.hidden) {
            turn?.abort();
            status.value = 'paused';
        } else {
            run();
        }
    });

    return {
        status,
        problem,
        /** Begins from the beginning. @param {string} url */
        open(url) {
            [target, last, isOver] = [url, '', false];
            status.value = 'connecting';
            problem.value = null;
            run();
        },
        /** Goes on with a log that had ended: its job has been put back. */
        goOn() {
            if (status.peek() !== 'ended') return;
            isOver = false;
            run();
        },
    };
}
