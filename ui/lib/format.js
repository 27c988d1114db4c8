// @ts-check
// Numbers, times and sizes for people.

import { zone } from './prefs.js';

const UNITS = /** @type {const} */ ([['d', 86400e3], ['h', 3600e3], ['m', 60e3], ['s', 1e3]]);

/** A duration in its two largest units: `1 h 5 m`, `12.3 s`, `8 ms`. @param {number | null | undefined} ms @returns {string} */
export function duration(ms) {
    if (ms === null || ms === undefined || Number.isNaN(ms)) return '–';
    if (ms < 0) return `−${duration(-ms)}`;
    if (ms < 1) return ms === 0 ? '0 ms' : `${ms.toFixed(2)} ms`;
    if (ms < 1000) return `${Math.round(ms)} ms`;
    if (ms < 60e3) return `${(ms / 1000).toFixed(ms < 10e3 ? 2 : 1)} s`;
    const at = UNITS.findIndex(([, size]) => ms >= size);
    const [unit, size] = UNITS[at];
    const [next, small] = UNITS[at + 1];
    const rest = Math.floor((ms % size) / small);
    return `${Math.floor(ms / size)} ${unit}${rest ? ` ${rest} ${next}` : ''}`;
}

/** @param {number | null | undefined} bytes */
export function bytes(bytes) {
    if (bytes === null || bytes === undefined) return '–';
    const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
    let at = 0;
    let size = bytes;
    for (; size >= 1024 && at < units.length - 1; at++) size /= 1024;
    return `${at && size < 100 ? size.toFixed(1) : Math.round(size)} ${units[at]}`;
}

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });

/** @param {number | null | undefined} n */
export const count = (n) => (n === null || n === undefined ? '–' : whole.format(n));
/** 12,300 as `12.3K`. @param {number | null | undefined} n */
export const compact = (n) => (n === null || n === undefined ? '–' : n < 10000 ? whole.format(n) : short.format(n));
/** 0.123 as `12.3 %`. @param {number | null | undefined} share */
export const percent = (share) => (share === null || share === undefined ? '–' : `${(share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`);

/** @type {Map<string, Intl.DateTimeFormat>} Making one takes far longer than using it. */
const formats = new Map();

/** @param {Intl.DateTimeFormatOptions} options */
function format(options) {
    const key = JSON.stringify(options);
    const known = formats.get(key) ?? new Intl.DateTimeFormat('en-GB', options);
    formats.set(key, known);
    return known;
}

/** @param {string | number | Date} at @param {boolean} [seconds] */
export function clock(at, seconds = true) {
    const date = new Date(at);
    const options = /** @type {Intl.DateTimeFormatOptions} */ ({
        hour: '2-digit',
        minute: '2-digit',
        ...(seconds ? { second: '2-digit' } : {}),
        hourCycle: 'h23',
        timeZone: zone.value === 'utc' ? 'UTC' : undefined,
    });
    return format(options).format(date);
}

/** Date and time in the user's zone, or in another. @param {string | number | Date} at @param {string} [timeZone] */
export function moment(at, timeZone) {
    const chosen = timeZone ?? (zone.value === 'utc' ? 'UTC' : undefined);
    const parts = Object.fromEntries(
        format({
            year: 'numeric', month: '2-digit', day: '2-digit', hour: '2-digit', minute: '2-digit', second: '2-digit',
            hourCycle: 'h23', timeZone: chosen, timeZoneName: 'short',
        }).formatToParts(new Date(at)).map((part) => [part.type, part.value]),
    );
    return `${parts.year}-${parts.month}-${parts.day} ${parts.hour}:${parts.minute}:${parts.second} ${parts.timeZoneName}`;
}

/** `12 s ago`, `in 3 m`. @param {string | number | Date} at @param {number} [now] */
export function relative(at, now = Date.now()) {
    const ms = new Date(at).getTime() - now;
    const size = Math.abs(ms);
    if (size < 1000) return 'now';
    const [unit, unitMs] = UNITS.find(([, unitMs]) => size >= unitMs) ?? UNITS[3];
    const text = `${Math.floor(size / unitMs)} ${unit}`;
    return ms < 0 ? `${text} ago` : `in ${text}`;
}

/** The outcome of an attempt in a few words. @param {any} outcome */
export function outcome(outcome) {
    if (!outcome) return 'running';
    const words = /** @type {Record<string, (o: any) => string>} */ ({
        exit: (o) => (o.code === 0 ? 'exit 0' : `exit ${o.code}`),
        signal: (o) => `signal ${o.signal}${SIGNALS[o.signal] ? ` ${SIGNALS[o.signal]}` : ''}`,
        timeout: () => 'timeout',
        cancelled: () => 'cancelled',
        oom: () => 'out of memory',
        spawn_error: (o) => `not started: ${String(o.reason ?? '').replaceAll('_', ' ')}`,
        lost: () => 'lost with its worker',
    });
    return words[outcome.kind]?.(outcome) ?? outcome.kind;
}

/** @type {Record<number, string>} */
const SIGNALS = {
    1: 'SIGHUP', 2: 'SIGINT', 3: 'SIGQUIT', 4: 'SIGILL', 5: 'SIGTRAP', 6: 'SIGABRT', 7: 'SIGBUS', 8: 'SIGFPE',
    9: 'SIGKILL', 10: 'SIGUSR1', 11: 'SIGSEGV', 12: 'SIGUSR2', 13: 'SIGPIPE', 14: 'SIGALRM', 15: 'SIGTERM',
    24: 'SIGXCPU', 25: 'SIGXFSZ', 31: 'SIGSYS',
};

/** Whether an attempt ended well. @param {any} outcome */
export const succeeded = (outcome) => outcome?.kind === 'exit' && outcome.code === 0;

/** The beginning of an id, where the whole is in a link. @param {string} id */
export const shortId = (id) => (/^[0-9a-f]{8}-[0-9a-f-]{27}$/.test(id) ? `${id.slice(0, 8)}…${id.slice(-4)}` : id);

/** As much of a build's digest as tells the builds of one name apart. @param {string} digest */
export const shortBuild = (digest) => digest.slice(0, digest.lastIndexOf(':') + 13);
