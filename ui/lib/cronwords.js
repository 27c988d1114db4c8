// @ts-check
// A cron expression in words: what can be said shortly is said; the rest shows itself as it is.

const DAYS = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday'];
const MONTHS = ['January', 'February', 'March', 'April', 'May', 'June', 'July', 'August', 'September', 'October', 'November', 'December'];
const NICKNAMES = /** @type {Record<string, string>} */ ({
    '@yearly': '0 0 1 1 *', '@annually': '0 0 1 1 *', '@monthly': '0 0 1 * *', '@weekly': '0 0 * * 0',
    '@daily': '0 0 * * *', '@midnight': '0 0 * * *', '@hourly': '0 * * * *',
});

/** @param {string[]} words */
const list = (words) => (words.length < 2 ? words.join('') : `${words.slice(0, -1).join(', ')} and ${words[words.length - 1]}`);

/** @param {number} n */
const pad = (n) => String(n).padStart(2, '0');

/** The numbers of a field that lists or spans numbers; null when it has steps or stars. @param {string} field @param {string[]} names @param {number} first */
function numbers(field, names, first) {
    /** @param {string} word */
    const read = (word) => {
        const named = names.findIndex((name) => name.slice(0, 3).toLowerCase() === word.toLowerCase());
        return named >= 0 ? named + first : /^\d+$/.test(word) ? Number(word) : NaN;
    };
    /** @type {number[]} */
    const all = [];
    for (const part of field.split(',')) {
        const [from, to] = part.split('-').map(read);
        if (Number.isNaN(from) || Number.isNaN(to ?? 0) || (to !== undefined && to < from)) return null;
        for (let n = from; n <= (to ?? from); n++) all.push(n);
    }
    return all.length ? all : null;
}

/** `every 5 minutes` for a field of a star with a step. @param {string} field @param {string} unit */
function every(field, unit) {
    const step = /^\*\/(\d+)$/.exec(field)?.[1];
    if (field === '*') return `every ${unit}`;
    return step ? (step === '1' ? `every ${unit}` : `every ${step} ${unit}s`) : null;
}

/** On which days. @param {string} day @param {string} month @param {string} weekday @returns {string | null} '' for all */
function days(day, month, weekday) {
    const any = (/** @type {string} */ field) => field === '*' || field === '?';
    const months = any(month) ? [] : numbers(month, MONTHS, 1);
    if (!months) return null;
    const inMonths = months.length ? ` in ${list(months.map((n) => MONTHS[n - 1] ?? '?'))}` : '';
    if (any(day) && any(weekday)) return inMonths;
    if (any(day)) {
        const wanted = numbers(weekday, DAYS, 0)?.map((n) => n % 7);
        if (!wanted) return null;
        if (String(wanted) === '1,2,3,4,5') return ` from Monday to Friday${inMonths}`;
        return ` on ${list(wanted.map((n) => DAYS[n]))}${inMonths}`;
    }
    const wanted = numbers(day, [], 1);
    if (!wanted || !any(weekday)) return null;
    return ` on day ${list(wanted.map(String))} of ${months.length ? list(months.map((n) => MONTHS[n - 1] ?? '?')) : 'the month'}`;
}

/** At which times of a day. @param {string} second @param {string} minute @param {string} hour @returns {string | null} */
function times(second, minute, hour) {
    const s = numbers(second, [], 0);
    const m = numbers(minute, [], 0);
    const h = numbers(hour, [], 0);
    const plainSecond = s?.length === 1 && s[0] === 0;
    if (s && m && h && s.length * m.length * h.length <= 6) {
        const clock = h.flatMap((h) => m.flatMap((m) => s.map((s) => `${pad(h)}:${pad(m)}${plainSecond ? '' : `:${pad(s)}`}`)));
        return `at ${list(clock)}`;
    }
    if (!plainSecond) return minute === '*' && hour === '*' ? every(second, 'second') : null;
    if (hour === '*' && m) return `every hour at minute ${list(m.map(String))}`;
    const minutes = every(minute, 'minute');
    if (minutes && hour === '*') return minutes;
    const isSpan = h?.every((hour, i) => i === 0 || hour === h[i - 1] + 1);
    if (minutes && h && isSpan) return `${minutes}, from ${pad(h[0])}:00 to ${pad(h[h.length - 1])}:59`;
    const hours = every(hour, 'hour');
    return hours && m?.length === 1 ? `${hours} at minute ${m[0]}` : null;
}

/**
 * What a cron expression means; null for one that is not said shortly.
 * @param {string} expression
 * @returns {string | null}
 */
export function cronInWords(expression) {
    const fields = (NICKNAMES[expression.trim().toLowerCase()] ?? expression.trim()).split(/\s+/);
    const [second, minute, hour, day, month, weekday] = fields.length === 5 ? ['0', ...fields] : fields;
    if (fields.length < 5 || fields.length > 6) return null;
    const at = times(second, minute, hour);
    const on = days(day, month, weekday);
    if (at === null || on === null) return null;
    return on === '' && at.startsWith('at ') ? `every day ${at}` : at + on;
}
