// @ts-check
// Talks to the server. What it refuses is thrown as a Problem, whose `code` decides and whose message is for people.

import { signal } from './signals.js';

const ROOT = '/api/v1';

/** Who the user is, as `GET /session` tells; null before the first answer. @type {import('./signals.js').Signal<any>} */
export const session = signal(null);

/** Whether the user may change anything. */
export const mayAct = () => session.value?.role === 'operator';

/** An answer that is an error, or none at all (status 0). */
export class Problem extends Error {
    /** @param {number} status @param {{ code?: string, detail?: string, title?: string, errors?: { pointer: string, detail: string }[] }} body */
    constructor(status, body) {
        super(body.detail || body.title || `the server answered ${status}`);
        this.status = status;
        this.code = body.code ?? '';
        this.errors = body.errors ?? [];
    }
}

/** @param {string} path @param {Record<string, any>} [params] lists become commas; null, undefined and '' are left out */
export function url(path, params = {}) {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(params)) {
        const text = Array.isArray(value) ? value.join(',') : value;
        if (text !== null && text !== undefined && text !== '' && text !== false) query.set(name, String(text));
    }
    const tail = query.toString();
    return `${path.startsWith(ROOT) ? path : ROOT + path}${tail ? `?${tail}` : ''}`;
}

/** @param {string} method @param {string} target @param {unknown} body @param {AbortSignal} [signal] @param {Record<string, string>} [headers] */
async function call(method, target, body, signal, headers = {}) {
    /** @type {Response} */
    let response;
    try {
        response = await fetch(target, {
            method,
            signal,
            credentials: 'same-origin',
            headers: { Accept: 'application/json', ...(body === undefined ? {} : { 'Content-Type': 'application/json' }), ...headers },
            // A text is JSON already: parsed and written again, its large numbers would be rounded.
            body: body === undefined || typeof body === 'string' ? body : JSON.stringify(body),
        });
    } catch (error) {
        if (signal?.aborted) throw error;
        throw new Problem(0, { code: 'no_server', detail: 'The server does not answer. Is it running?' });
    }
    if (response.ok) return response;
    const problem = new Problem(response.status, await response.json().catch(() => ({})));
    if (problem.status === 401) refreshSession();
    throw problem;
}

/** @param {string} path @param {Record<string, any>} [params] @param {AbortSignal} [signal] @returns {Promise<any>} */
export async function get(path, params, signal) {
    return (await call('GET', url(path, params), undefined, signal)).json();
}

/** @param {string} path @param {unknown} [body] @param {{ signal?: AbortSignal, headers?: Record<string, string> }} [options] @returns {Promise<any>} */
export async function post(path, body = {}, { signal, headers } = {}) {
    return (await call('POST', url(path), body, signal, headers)).json();
}

/** @param {string} path @param {unknown} body @returns {Promise<any>} */
export async function put(path, body) {
    return (await call('PUT', url(path), body)).json();
}

/** @param {string} path @returns {Promise<any>} */
export async function remove(path) {
    return (await call('DELETE', url(path), undefined)).json();
}

/** Asks again who the user is. */
export async function refreshSession() {
    try {
        session.value = await get('/session');
    } catch {
        // The pages say themselves that the server is away.
    }
}

/** @param {string} token */
export async function signIn(token) {
    session.value = await post('/session', { token });
}

export async function signOut() {
    session.value = await remove('/session');
}

/** An id in a path. @param {string} text */
export const segment = (text) => encodeURIComponent(text);
