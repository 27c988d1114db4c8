// @ts-check
// Durations and sizes as people write them for Jobber, and texts as a shell takes them.

const DURATIONS = /** @type {Record<string, number>} */ ({ ms: 1, s: 1e3, m: 60e3, h: 3600e3, d: 86400e3 });
const SIZES = /** @type {Record<string, number>} */ ({ '': 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 });

/** Reads `90s`, `15m`, `1h 30m`, `250ms`: milliseconds, or null for anything else. @param {string} text */
export function readDuration(text) {
    if (!/^(\s*\d+(\.\d+)?\s*(ms|s|m|h|d))+\s*$/.test(text)) return null;
    let sum = 0;
    for (const [, n, unit] of text.matchAll(/(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)/g)) sum += Number(n) * DURATIONS[unit];
    return Math.round(sum);
}

/** Writes milliseconds so that they can be read again, exactly. @param {number | null | undefined} ms */
export function writeDuration(ms) {
    if (ms === null || ms === undefined) return '';
    const unit = ['d', 'h', 'm', 's'].find((unit) => ms >= DURATIONS[unit] && ms % DURATIONS[unit] === 0) ?? 'ms';
    return `${ms / DURATIONS[unit]}${unit}`;
}

/** Reads `512M`, `1GiB`, `65536`: bytes, or null for anything else. @param {string} text */
export function readSize(text) {
    const match = /^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*$/i.exec(text);
    return match && Math.round(Number(match[1]) * SIZES[match[2].toLowerCase()]);
}

/** Writes bytes so that they can be read again, exactly. @param {number | null | undefined} bytes */
export function writeSize(bytes) {
    if (bytes === null || bytes === undefined) return '';
    const unit = ['t', 'g', 'm', 'k'].find((unit) => bytes >= SIZES[unit] && bytes % SIZES[unit] === 0) ?? '';
    return `${bytes / SIZES[unit]}${unit ? `${unit.toUpperCase()}iB` : ''}`;
}

/** A text as one word of a shell's command. @param {string} text */
export function shellWord(text) {
    return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
