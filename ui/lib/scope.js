// @ts-check
// What a page has started ends with the page.

import { Problem, get, url } from './api.js';
import { effect, signal, untracked } from './signals.js';

/** The life of a page, or of a part of one. */
export class Scope {
    #ended = new AbortController();

    /** Aborted at the end; for requests. */
    get signal() {
        return this.#ended.signal;
    }

    /** @param {() => void} end */
    onEnd(end) {
        this.signal.addEventListener('abort', end, { once: true });
    }

    /** @param {() => void} work */
    effect(work) {
        this.onEnd(effect(work));
    }

    /** @param {EventTarget} target @param {string} type @param {(event: any) => void} listener @param {AddEventListenerOptions} [options] */
    on(target, type, listener, options = {}) {
        target.addEventListener(type, listener, { ...options, signal: this.signal });
    }

    /** Calls every `ms` while the page can be seen, and when it is seen again. @param {number} ms @param {() => void} work */
    every(ms, work) {
        let last = Date.now();
        const turn = () => {
            if (document.hidden || Date.now() - last < ms * 0.9) return;
            last = Date.now();
            work();
        };
        const timer = setInterval(turn, ms);
        this.onEnd(() => clearInterval(timer));
        this.on(document, 'visibilitychange', turn);
    }

    end() {
        this.#ended.abort();
    }
}

/**
 * What the server answers to a GET, kept while it is asked anew.
 * @template T
 * @typedef {{ data: import('./signals.js').Signal<T | null>, error: import('./signals.js').Signal<Problem | null>,
 *   busy: import('./signals.js').Signal<boolean>, reload: () => Promise<void> }} Resource
 */

/**
 * Asks whenever what `request` reads has changed, and every `every` ms if given. A late answer to an earlier question
 * does not count.
 * @param {Scope} scope
 * @param {() => [string, Record<string, any>?] | null} request null asks nothing
 * @param {{ every?: number }} [options]
 * @returns {Resource<any>}
 */
export function resource(scope, request, { every } = {}) {
    const data = signal(/** @type {any} */ (null));
    const error = signal(/** @type {Problem | null} */ (null));
    const busy = signal(false);
    let asked = '';
    /** @type {AbortController | null} */
    let under = null;
    const ask = async () => {
        const wanted = untracked(request);
        under?.abort();
        if (!wanted) return;
        const target = url(...wanted);
        if (target !== asked) error.value = null;
        asked = target;
        const mine = (under = new AbortController());
        busy.value = true;
        try {
            const answer = await get(target, {}, AbortSignal.any([mine.signal, scope.signal]));
            if (mine.signal.aborted) return;
            data.value = answer;
            error.value = null;
        } catch (problem) {
            if (mine.signal.aborted || scope.signal.aborted) return;
            if (!(problem instanceof Problem)) throw problem;
            error.value = problem;
        } finally {
            if (under === mine) busy.value = false;
        }
    };
    scope.effect(() => {
        request();
        ask();
    });
    if (every) scope.every(every, ask);
    return { data, error, busy, reload: ask };
}
