// @ts-check
// What the form of a new job holds, as texts; and what becomes of it: a body for the API, a command, a request of curl.

import { readDuration, readSize, shellWord, writeDuration, writeSize } from '../../lib/notation.js';

/** @typedef {Record<string, string>} Draft one text for each field of the form */
/** @typedef {{ text: string, body: Record<string, any>, errors: Record<string, string> }} Built `errors`: by field */

/** All fields, each with where the server says that it is wrong. */
export const POINTERS = /** @type {Record<string, string>} */ ({
    name: '/name',
    arguments: '/arguments',
    data: '/data',
    id: '/id',
    attempts: '/attempts',
    backoff: '/backoff/type',
    backoff_delay: '/backoff/delay_ms',
    backoff_max: '/backoff/max_ms',
    jitter: '/backoff/jitter',
    delay: '/delay_ms',
    priority: '/priority',
    queue: '/queue',
    array: '/array',
    group: '/group',
    group_limit: '/group_limit',
    timeout: '/timeout_ms',
    grace: '/grace_ms',
    memory: '/memory_bytes',
    cores: '/cores',
    require: '/require',
    resources: '/resources',
    nice: '/nice',
    no_retry: '/no_retry_exit_codes',
    after: '/after',
    key: '/deduplication/key',
    ttl: '/deduplication/ttl_ms',
});

/** The field at which the server found something, or nothing. @param {string} pointer */
export function fieldAt(pointer) {
    const fits = Object.entries(POINTERS).filter(
        ([, p]) => pointer === p || pointer.startsWith(`${p}/`) || p.startsWith(`${pointer}/`),
    );
    return fits[0]?.[0];
}

/** The form of a job that is there already. @param {any} job @returns {Draft} */
export function draftOf(job) {
    const { options } = job;
    const isPlain =
        job.arguments.every((/** @type {string} */ a) => !a.includes('\n')) &&
        !(job.arguments.length === 1 && job.arguments[0] === '');
    const number = (/** @type {number | undefined} */ n) => (n === undefined || n === null ? '' : String(n));
    return {
        name: job.name,
        list: isPlain ? '' : 'json',
        arguments: isPlain ? job.arguments.join('\n') : JSON.stringify(job.arguments, null, 2),
        data: job.data === null || job.data === undefined ? '' : JSON.stringify(job.data, null, 2),
        attempts: number(options.attempts),
        backoff: options.backoff?.type ?? '',
        backoff_delay: writeDuration(options.backoff?.delay_ms),
        backoff_max: writeDuration(options.backoff?.max_ms),
        jitter: number(options.backoff?.jitter || undefined),
        delay: writeDuration(options.delay_ms || null),
        priority: number(options.priority || undefined),
        queue: options.queue ?? '',
        group: options.group ?? '',
        group_limit: number(options.group_limit),
        timeout: writeDuration(options.timeout_ms),
        grace: writeDuration(options.grace_ms),
        memory: writeSize(options.memory_bytes),
        cores: number(options.cores),
        require: writePairs(options.require),
        resources: writePairs(options.resources),
        nice: number(options.nice),
        no_retry: (options.no_retry_exit_codes ?? []).join(', '),
    };
}

/** Whether a browser may have rounded a number of what it read. @param {unknown} value @returns {boolean} */
export function isRounded(value) {
    if (typeof value === 'number') return Number.isInteger(value) && !Number.isSafeInteger(value);
    return typeof value === 'object' && value !== null && Object.values(value).some(isRounded);
}

/** @param {Record<string, any> | undefined | null} pairs */
const writePairs = (pairs) => Object.entries(pairs ?? {}).map(([name, value]) => `${name}=${value}`).join(', ');

/** @param {string} text @returns {Record<string, string> | null} */
function readPairs(text) {
    const parts = text.split(',').map((part) => part.trim()).filter(Boolean).map((part) => part.split(/\s*=\s*/));
    return parts.every(([name, value, ...more]) => name && value && !more.length) ? Object.fromEntries(parts) : null;
}

/** @param {string} text one argument a line */
const lines = (text) => (text === '' ? [] : text.replace(/\n$/, '').split('\n'));

/** @param {Draft} draft @returns {Built} */
export function build(draft) {
    /** @type {Record<string, string>} */
    const errors = {};
    /** @type {Record<string, any>} */
    const body = { name: draft.name?.trim() ?? '' };
    const has = (/** @type {string} */ field) => Boolean(draft[field]?.trim());
    const read = (
        /** @type {string} */ field,
        /** @type {(text: string) => any} */ reader,
        /** @type {string} */ wrong,
    ) => {
        if (!has(field)) return undefined;
        const value = reader(draft[field].trim());
        if (value === null || Number.isNaN(value)) errors[field] = wrong;
        return value;
    };
    const span = (/** @type {string} */ field) =>
        read(field, readDuration, 'Write a duration, such as 90s, 15m or 1h 30m.');
    const whole = (/** @type {string} */ field) =>
        read(field, (text) => (/^-?\d+$/.test(text) ? Number(text) : null), 'Write a whole number.');
    if (!body.name) errors.name = 'Say which program to run.';
    if (draft.list !== 'json') {
        body.arguments = lines(draft.arguments ?? '');
    } else {
        body.arguments =
            read(
                'arguments',
                (text) => {
                    const list = parse(text).value;
                    return Array.isArray(list) && list.every((a) => typeof a === 'string') ? list : null;
                },
                'Write a JSON list of strings.',
            ) ?? [];
    }
    if (!body.arguments.length) delete body.arguments;
    if (has('data')) {
        const { value, error } = parse(draft.data);
        if (error) errors.data = error;
        else body.data = value;
    }
    if (has('id')) body.id = draft.id.trim();
    body.attempts = whole('attempts');
    if (draft.backoff) {
        body.backoff = {
            type: draft.backoff,
            delay_ms: span('backoff_delay') ?? 1000,
            max_ms: span('backoff_max'),
            jitter: read('jitter', Number, 'Write a number from 0 to 1.'),
        };
    }
    if (!draft.backoff && ['backoff_delay', 'backoff_max', 'jitter'].some(has)) {
        errors.backoff = 'Choose one, or leave the waits empty.';
    }
    body.delay_ms = span('delay');
    body.priority = whole('priority');
    if (has('queue')) body.queue = draft.queue.trim();
    body.array = read(
        'array',
        (text) => (/^[\d\s,:-]+(%\s*\d+)?$/.test(text) ? text.replace(/\s+/g, '') : null),
        'Write indices, such as 0-99, 1,3,7-9 or 0-99%4.',
    );
    if (has('group')) body.group = draft.group.trim();
    body.group_limit = whole('group_limit');
    body.timeout_ms = span('timeout');
    body.grace_ms = span('grace');
    body.memory_bytes = read('memory', readSize, 'Write a size, such as 512MiB or 2GiB.');
    body.cores = whole('cores');
    body.require = read('require', readPairs, 'Write NAME=VALUE, with commas between them.');
    body.resources = read(
        'resources',
        (text) => {
            const pairs = Object.entries(readPairs(text) ?? { '': '' });
            const isAmount = (/** @type {string} */ n) => /^[1-9]\d*$/.test(n);
            return pairs.every(([, n]) => isAmount(n)) ? Object.fromEntries(pairs.map(([k, n]) => [k, Number(n)])) : null;
        },
        'Write NAME=N, with commas between them.',
    );
    body.nice = whole('nice');
    body.no_retry_exit_codes = read(
        'no_retry',
        (text) => {
            const codes = text
                .split(/[\s,]+/)
                .filter(Boolean)
                .map(Number);
            return codes.every((code) => Number.isInteger(code) && code >= 1 && code <= 255) ? codes : null;
        },
        'Write exit codes from 1 to 255 with commas.',
    );
    if (has('after')) body.after = draft.after.split(/[\s,]+/).filter(Boolean);
    if (has('key')) body.deduplication = { key: draft.key.trim(), ttl_ms: span('ttl') };
    if (!has('key') && has('ttl')) errors.key = 'Write a key, or leave its time empty.';
    // The data goes as it was written: a browser would round its large numbers.
    const { data, ...others } = body;
    const text = JSON.stringify(others);
    return {
        body,
        errors,
        text: 'data' in body && !errors.data ? `${text.slice(0, -1)},"data":${draft.data.trim()}}` : text,
    };
}

/** @param {string} text @returns {{ value?: any, error?: string }} */
function parse(text) {
    try {
        return { value: JSON.parse(text) };
    } catch (error) {
        return { error: `Not JSON: ${/** @type {Error} */ (error).message}` };
    }
}

/** The data in one line, unless that would round its numbers. @param {Built} built @param {Draft} draft */
const dataOf = ({ body }, draft) => (isRounded(body.data) ? draft.data.trim() : JSON.stringify(body.data));

/**
 * The same on the command line.
 * @param {Built} built
 * @param {Draft} draft
 * @returns {{ command: string, lacks: string[] }} `lacks`: what it can't say
 */
export function command(built, draft) {
    const { body } = built;
    const words = ['jobber', 'submit', body.name || 'NAME'];
    const flag = (/** @type {string} */ name, /** @type {any} */ value) => {
        if (value !== undefined && value !== null && value !== '') words.push(`--${name}`, String(value));
    };
    const lacks = [];
    if ('data' in body) flag('data', dataOf(built, draft));
    flag('id', body.id);
    flag('attempts', body.attempts);
    if (body.backoff) {
        const { type, delay_ms: delay, jitter, max_ms: max } = body.backoff;
        flag(
            'backoff',
            `${type === 'exponential' ? 'exp' : 'fixed'}:${writeDuration(delay)}${jitter ? `:${jitter}` : ''}`,
        );
        if (max) lacks.push('the longest wait between attempts');
    }
    flag('delay', writeDuration(body.delay_ms));
    flag('priority', body.priority);
    flag('queue', body.queue);
    flag('array', body.array);
    flag('group', body.group);
    flag('group-limit', body.group_limit);
    flag('timeout', writeDuration(body.timeout_ms));
    flag('grace', writeDuration(body.grace_ms));
    flag('memory', writeSize(body.memory_bytes));
    flag('cores', body.cores);
    flag('require', writePairs(body.require).replaceAll(', ', ','));
    flag('resource', writePairs(body.resources).replaceAll(', ', ','));
    flag('nice', body.nice);
    flag('no-retry-exit-codes', body.no_retry_exit_codes?.join(','));
    if (body.deduplication)
        flag(
            'dedup',
            `${body.deduplication.key}${body.deduplication.ttl_ms ? `:${writeDuration(body.deduplication.ttl_ms)}`
                : ''}`,
        );
    flag('after', body.after?.join(','));
    if (body.arguments) words.push('--', ...body.arguments);
    return { command: words.map(shellWord).join(' '), lacks };
}

/** The same as a request. @param {Built} built @param {boolean} hasToken */
export function curl({ body, text: written }, hasToken) {
    const text = isRounded(body.data) ? written : JSON.stringify(body);
    const token = hasToken ? ' -H "Authorization: Bearer $JOBBER_TOKEN"' : '';
    return `curl ${location.origin}/api/v1/jobs -H 'Content-Type: application/json'${token} -d ${shellWord(text)}`;
}
