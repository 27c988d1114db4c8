// @ts-check
// A log as lines: splits what comes at its line ends, keeps the last lines, and knows how wide they are. No DOM here.

import { PLAIN, advance, plain } from './ansi.js';

/**
 * @typedef {{ seq: number, kind: 'output' | 'attempt' | 'gap' | 'note', n: number, attempt: number, stream: string,
 *   text: string, style: import('./ansi.js').Style, isMore: boolean, version: number, plain: string | null,
 *   outcome?: any }} Line `seq` counts all lines, `n` those of output; `isMore`: goes on with the line before, which was
 *   too long; `style`: in which it begins; `version` changes with the text
 */

/**
 * A stream of one attempt: its line without an end so far, and the style in which its next line begins.
 * @typedef {{ open: Line | null, style: import('./ansi.js').Style, decoder: TextDecoder | null }} Tail
 */

/** The last lines of a log. */
export class LogLines {
    /** @type {Line[]} */
    #lines = [];
    #head = 0;
    #first = 0;
    #characters = 0;
    #n = 0;
    /** @type {Map<string, Tail>} */
    #tails = new Map();
    /** @type {Set<number>} */
    #ended = new Set();
    #attempt = 0;
    /** How many lines of output are no longer kept. */
    dropped = 0;
    /** How many bytes were missing. */
    missing = 0;

    /** @param {{ most?: number, mostCharacters?: number, longest?: number }} [limits] */
    constructor({ most = 10_000, mostCharacters = 4_000_000, longest = 4096 } = {}) {
        this.limits = { most, mostCharacters, longest };
    }

    /** The `seq` of the first line that is kept. */
    get first() {
        return this.#first;
    }

    /** The `seq` behind the last. */
    get end() {
        return this.#first + this.#lines.length - this.#head;
    }

    /** How many lines of output there have been. */
    get total() {
        return this.#n;
    }

    /** @param {number} seq @returns {Line | undefined} */
    at(seq) {
        return seq < this.#first ? undefined : this.#lines[this.#head + seq - this.#first];
    }

    /** Whether a line may still change. @param {number} seq */
    isOpen(seq) {
        for (const { open } of this.#tails.values()) if (open?.seq === seq) return true;
        return false;
    }

    clear() {
        this.#lines = [];
        this.#head = this.#first = this.#characters = this.#n = this.#attempt = this.dropped = this.missing = 0;
        this.#tails.clear();
        this.#ended.clear();
    }

    /**
     * Takes an event of the log. The server tells the end of an attempt, progress and state again to who comes back;
     * output it never tells twice.
     * @param {any} event
     * @returns {boolean} whether there is something new
     */
    take(event) {
        switch (event.type) {
            case 'output':
                this.output(event.attempt, event.stream, event.text, event.base64);
                return true;
            case 'gap':
                this.#close(this.#tail(event.attempt, event.stream));
                this.missing += event.bytes;
                this.#push({ kind: 'gap', attempt: event.attempt, stream: event.stream, text: String(event.bytes) });
                return true;
            case 'attempt': {
                if (event.outcome === null ? event.attempt <= this.#attempt : this.#ended.has(event.attempt))
                    return false;
                this.#attempt = Math.max(this.#attempt, event.attempt);
                for (const tail of this.#tails.values()) this.#close(tail);
                if (event.outcome !== null) this.#ended.add(event.attempt);
                else this.#tails.clear();
                this.#push({ kind: 'attempt', attempt: event.attempt, outcome: event.outcome });
                return true;
            }
            default:
                return false;
        }
    }

    /**
     * Adds output.
     * @param {number} attempt
     * @param {string} stream
     * @param {string} text
     * @param {string} [base64] the bytes, where `text` is not the whole truth
     */
    output(attempt, stream, text, base64) {
        const tail = this.#tail(attempt, stream);
        if (base64 !== undefined) {
            // A character may be divided between two events.
            tail.decoder ??= new TextDecoder();
            text = tail.decoder.decode(
                Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)),
                { stream: true },
            );
        } else if (tail.decoder) {
            text = tail.decoder.decode() + text;
            tail.decoder = null;
        }
        for (let at = 0; at < text.length;) {
            const end = text.indexOf('\n', at);
            this.#add(tail, attempt, stream, text.slice(at, end < 0 ? undefined : end));
            if (end < 0) return;
            this.#close(tail);
            at = end + 1;
        }
    }

    /** @param {number} attempt @param {string} stream */
    #tail(attempt, stream) {
        const key = `${attempt} ${stream}`;
        let tail = this.#tails.get(key);
        if (!tail) this.#tails.set(key, (tail = { open: null, style: PLAIN, decoder: null }));
        return tail;
    }

    /** Adds a part of a line. @param {Tail} tail @param {number} attempt @param {string} stream @param {string} part */
    #add(tail, attempt, stream, part) {
        const { longest } = this.limits;
        // A line that has been dropped meanwhile goes on as a new one.
        if (tail.open && tail.open.seq < this.#first) {
            tail.style = advance(tail.open.text, tail.open.style);
            tail.open = null;
        }
        if (tail.open) {
            tail.open.text += part;
            tail.open.version++;
            tail.open.plain = null;
            this.#characters += part.length;
        } else {
            tail.open = this.#push({ kind: 'output', attempt, stream, text: part, style: tail.style, n: ++this.#n });
        }
        while (tail.open.text.length > longest) {
            const line = tail.open;
            const { text } = line;
            const back = text.lastIndexOf('\r', text.length - 2);
            if (back > 0) {
                // Only what was written last over the line is to be seen.
                line.style = advance(text.slice(0, back), line.style);
                line.text = text.slice(back + 1);
                this.#characters -= back + 1;
                continue;
            }
            const cut = cutAt(text, longest);
            line.text = text.slice(0, cut);
            this.#characters -= text.length - cut;
            tail.style = advance(line.text, line.style);
            tail.open = this.#push({
                kind: 'output',
                attempt,
                stream,
                text: text.slice(cut),
                style: tail.style,
                n: line.n,
                isMore: true,
            });
        }
        this.#trim();
    }

    /** Ends the line that is open. @param {Tail} tail */
    #close(tail) {
        if (!tail.open) return;
        tail.style = advance(tail.open.text, tail.open.style);
        tail.open = null;
    }

    /** @param {Partial<Line> & { kind: Line['kind'] }} line @returns {Line} */
    #push(line) {
        const made = {
            n: 0,
            attempt: 0,
            stream: '',
            text: '',
            style: PLAIN,
            isMore: false,
            version: 0,
            plain: null,
            ...line,
            seq: this.end,
        };
        this.#lines.push(made);
        this.#characters += made.text.length;
        this.#trim();
        return made;
    }

    #trim() {
        const { most, mostCharacters } = this.limits;
        while (this.end - this.#first > most || (this.#characters > mostCharacters && this.end - this.#first > 1)) {
            const line = this.#lines[this.#head];
            this.#characters -= line.text.length;
            if (line.kind === 'output' && !line.isMore) this.dropped++;
            this.#head++;
            this.#first++;
        }
        if (this.#head > 4096) {
            this.#lines.splice(0, this.#head);
            this.#head = 0;
        }
    }
}

/**
 * Where to divide a line that is too long: not within an escape sequence or a pair of surrogates.
 * @param {string} text
 * @param {number} longest
 */
function cutAt(text, longest) {
    const escape = text.lastIndexOf('\x1b', longest - 1);
    // eslint-disable-next-line no-control-regex
    if (escape > longest - 64 && escape > 0 && !/^\x1b(\[[0-?]*[ -/]*[@-~]|[^[\]])/.test(text.slice(escape, longest)))
        return escape;
    const last = text.charCodeAt(longest - 1);
    return last >= 0xd800 && last <= 0xdbff ? longest - 1 : longest;
}

/** What a line shows without styles. @param {Line} line */
export function plainOf(line) {
    return (line.plain ??= line.kind === 'output' ? plain(line.text) : '');
}

// ---- Width

// The signs that a monospaced font shows twice as wide, and those that take no place of their own.
const WIDE = new RegExp(
    '[\\u1100-\\u115f\\u2e80-\\ua4cf\\uac00-\\ud7a3\\uf900-\\ufaff\\ufe30-\\ufe6f\\uff00-\\uff60\\uffe0-\\uffe6' +
        '\\u{1f300}-\\u{1f64f}\\u{1f680}-\\u{1f6ff}\\u{1f900}-\\u{1f9ff}\\u{20000}-\\u{3fffd}]',
    'u',
);
const NARROW = /[\p{Mn}\p{Me}\p{Cf}]/u;

/** The columns of a character. @param {string} character @param {number} column where it stands */
export function columnsOf(character, column) {
    if (character === '\t') return 8 - (column % 8);
    const code = character.codePointAt(0) ?? 0;
    if (code < 0x300) return 1;
    return WIDE.test(character) ? 2 : NARROW.test(character) ? 0 : 1;
}

// eslint-disable-next-line no-control-regex
const SIMPLE = /^[\x20-\u02ff]*$/;

/**
 * Where the rows of a text begin, if a row has so many columns.
 * @param {string} text
 * @param {number} columns
 * @returns {number[]}
 */
export function wrap(text, columns) {
    const begins = [0];
    if (SIMPLE.test(text)) {
        for (let at = columns; at < text.length; at += columns) begins.push(at);
        return begins;
    }
    let [column, at] = [0, 0];
    for (const character of text) {
        let width = columnsOf(character, column);
        if (column + width > columns && column > 0) {
            begins.push(at);
            column = 0;
            width = columnsOf(character, 0);
        }
        column += width;
        at += character.length;
    }
    return begins;
}

/** The columns that a text takes. @param {string} text */
export function widthOf(text) {
    if (SIMPLE.test(text)) return text.length;
    let column = 0;
    for (const character of text) column += columnsOf(character, column);
    return column;
}

/**
 * The part of runs from one character to another.
 * @param {import('./ansi.js').Run[]} runs
 * @param {number} from
 * @param {number} to
 */
export function slice(runs, from, to) {
    const part = [];
    let at = 0;
    for (const { text, style } of runs) {
        const piece = text.slice(Math.max(0, from - at), Math.max(0, to - at));
        if (piece) part.push({ text: piece, style });
        at += text.length;
        if (at >= to) break;
    }
    return part;
}

// ---- Server-sent events

/** Reads server-sent events from the pieces of a stream. */
export class SseReader {
    #rest = '';
    #event = '';
    #id = '';
    /** @type {string[]} */
    #data = [];

    /** @param {string} text @returns {{ id: string, event: string, data: string }[]} */
    read(text) {
        const events = [];
        const lines = (this.#rest + text).split(/\r\n|\n/);
        this.#rest = lines.pop() ?? '';
        for (const line of lines) {
            if (!line) {
                if (this.#data.length)
                    events.push({ id: this.#id, event: this.#event || 'message', data: this.#data.join('\n') });
                this.#data = [];
                this.#event = '';
                continue;
            }
            const colon = line.indexOf(':');
            const field = colon < 0 ? line : line.slice(0, colon);
            const value = colon < 0 ? '' : line.slice(colon + (line[colon + 1] === ' ' ? 2 : 1));
            if (field === 'data') this.#data.push(value);
            else if (field === 'event') this.#event = value;
            else if (field === 'id') this.#id = value;
        }
        return events;
    }
}
