// @ts-check
// Reads what programs write for terminals. Colours and fonts (SGR) and links (OSC 8) become runs of styled text;
// carriage return, backspace and "erase in line" write over a line, as progress bars do; every other escape is dropped.
// No DOM is needed here: a run is text, and stays text.

/**
 * How text looks. Styles don't change: a new one is made.
 * @typedef {{ fg: number, bg: number, flags: number, link: string }} Style `fg` and `bg`: DEFAULT, 0 to 255, or
 *   `TRUE | rgb`
 * @typedef {{ text: string, style: Style }} Run
 */

export const DEFAULT = -1;
export const TRUE = 0x1000000;
export const BOLD = 1;
export const DIM = 2;
export const ITALIC = 4;
export const UNDERLINE = 8;
export const INVERSE = 16;
export const STRIKE = 32;

/** @type {Style} */
export const PLAIN = Object.freeze({ fg: DEFAULT, bg: DEFAULT, flags: 0, link: '' });

/**
 * An escape sequence or a control character: CSI with its parts, OSC with its text, the other strings, escapes of few
 * characters, and single controls other than tab and line feed. What has no end runs to the end of the line.
 */
// eslint-disable-next-line no-control-regex
const TOKEN = new RegExp(
    [
        /(?:\x1b\[|\x9b)([0-?]*)([ -/]*)([@-~])/,
        /(?:\x1b\]|\x9d)([^\x07\x1b\x9c]*)(?:\x07|\x1b\\|\x9c)?/,
        /(?:\x1b[PX^_]|[\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?/,
        /\x1b(?:\[[0-?]*[ -/]*|[ -/]*[0-~]?)/,
        /[\x00-\x08\x0b-\x1f\x7f-\x9f]/,
    ]
        .map((part) => part.source)
        .join('|'),
    'g',
);
// eslint-disable-next-line no-control-regex
const HAS_TOKEN = /[\x00-\x08\x0b-\x1f\x7f-\x9f]/;
/** The begin of a sequence that is a string; an escape within it is none. */
// eslint-disable-next-line no-control-regex
const STRING = /\x1b[\]PX^_]|[\x90\x98\x9d-\x9f]/;
/** What moves within the line: carriage return, backspace, and the CSI sequences K and G. */
// eslint-disable-next-line no-control-regex
const MOVES = /[\r\x08]|(?:\x1b\[|\x9b)[0-9]*[KG]/;

/** The style after SGR with these parameters. @param {Style} style @param {string} parameters @returns {Style} */
function sgr(style, parameters) {
    let { fg, bg, flags } = style;
    // A colour may be written with colons, `38:2::1:2:3`, as one parameter with parts.
    const all = parameters.split(';');
    for (let i = 0; i < all.length; i++) {
        const parts = all[i].split(':');
        const n = Number(parts[0] || 0);
        if (n === 0) [fg, bg, flags] = [DEFAULT, DEFAULT, 0];
        else if (n === 1) flags |= BOLD;
        else if (n === 2) flags |= DIM;
        else if (n === 3) flags |= ITALIC;
        else if (n === 4) flags = parts[1] === '0' ? flags & ~UNDERLINE : flags | UNDERLINE;
        else if (n === 7) flags |= INVERSE;
        else if (n === 9) flags |= STRIKE;
        else if (n === 21) flags |= UNDERLINE;
        else if (n === 22) flags &= ~(BOLD | DIM);
        else if (n === 23) flags &= ~ITALIC;
        else if (n === 24) flags &= ~UNDERLINE;
        else if (n === 27) flags &= ~INVERSE;
        else if (n === 29) flags &= ~STRIKE;
        else if (n >= 30 && n <= 37) fg = n - 30;
        else if (n === 39) fg = DEFAULT;
        else if (n >= 40 && n <= 47) bg = n - 40;
        else if (n === 49) bg = DEFAULT;
        else if (n >= 90 && n <= 97) fg = n - 82;
        else if (n >= 100 && n <= 107) bg = n - 92;
        else if (n === 38 || n === 48 || n === 58) {
            const hasParts = parts.length > 1;
            const rest = hasParts ? parts.slice(1) : all.slice(i + 1);
            const { colour, used } = extended(rest, hasParts);
            if (!hasParts) i += used;
            if (colour !== null && n === 38) fg = colour;
            if (colour !== null && n === 48) bg = colour;
        }
    }
    return { fg, bg, flags, link: style.link };
}

/**
 * @param {string[]} rest what follows 38 or 48
 * @param {boolean} hasParts written with colons
 * @returns {{ colour: number | null, used: number }}
 */
function extended(rest, hasParts) {
    const byte = (/** @type {string | undefined} */ text) => Math.min(255, Number(text || 0) || 0);
    if (rest[0] === '5') return { colour: byte(rest[1]), used: 2 };
    if (rest[0] !== '2') return { colour: null, used: 1 };
    // With colons an id of the colour space may come first.
    const [r, g, b] = rest.slice(hasParts && rest.length > 4 ? 2 : 1).map(byte);
    return { colour: TRUE | ((r ?? 0) << 16) | ((g ?? 0) << 8) | (b ?? 0), used: 4 };
}

/**
 * The style after an OSC: only OSC 8, a link, counts, and of those http and https.
 * @param {Style} style
 * @param {string} text
 * @returns {Style}
 */
function osc(style, text) {
    const match = /^8;[^;]*;(.*)$/.exec(text);
    if (!match) return style;
    const link = /^https?:\/\/[^\s/]/i.test(match[1]) && URL.canParse(match[1]) ? match[1] : '';
    return link === style.link ? style : { ...style, link };
}

/** The style after a token. @param {Style} style @param {RegExpMatchArray} match @returns {Style} */
function after(style, match) {
    if (match[3] === 'm' && !match[2] && !/[<=>?]/.test(match[1])) return sgr(style, match[1]);
    if (match[4] !== undefined) return osc(style, match[4]);
    return style;
}

/**
 * The style in which the next line begins.
 * @param {string} text a line
 * @param {Style} style in which it begins
 * @returns {Style}
 */
export function advance(text, style) {
    if (!HAS_TOKEN.test(text)) return style;
    let at = style;
    // What stands before the last reset has no effect, but for links. Most coloured lines end with one.
    const reset = Math.max(text.lastIndexOf('\x1b[0m'), text.lastIndexOf('\x1b[m'));
    if (reset >= 0 && !STRING.test(text)) {
        at = style.link ? { ...PLAIN, link: style.link } : PLAIN;
        text = text.slice(reset);
        if (text.length <= 4) return isSame(at, style) ? style : at;
    }
    for (const match of text.matchAll(TOKEN)) at = after(at, match);
    return isSame(at, style) ? style : at;
}

/** @param {Style} a @param {Style} b */
export function isSame(a, b) {
    return a === b || (a.fg === b.fg && a.bg === b.bg && a.flags === b.flags && a.link === b.link);
}

/**
 * What a line shows, in runs of one style each.
 * @param {string} text
 * @param {Style} style in which it begins
 * @returns {Run[]}
 */
export function parse(text, style) {
    const line = text.endsWith('\r') ? text.replace(/\r+$/, '') : text;
    if (!HAS_TOKEN.test(line)) return line ? [{ text: line, style }] : [];
    return MOVES.test(line) ? overwrite(line, style) : straight(line, style);
}

/** What a line shows, without styles. @param {string} text @returns {string} */
export function plain(text) {
    if (!HAS_TOKEN.test(text)) return text;
    return parse(text, PLAIN)
        .map((run) => run.text)
        .join('');
}

/** @param {Run[]} runs @param {string} text @param {Style} style */
function push(runs, text, style) {
    if (!text) return;
    const last = runs[runs.length - 1];
    if (last && isSame(last.style, style)) last.text += text;
    else runs.push({ text, style });
}

/** A line in which nothing moves back. @param {string} line @param {Style} style @returns {Run[]} */
function straight(line, style) {
    /** @type {Run[]} */
    const runs = [];
    let begin = 0;
    for (const match of line.matchAll(TOKEN)) {
        push(runs, line.slice(begin, match.index), style);
        begin = match.index + match[0].length;
        style = after(style, match);
    }
    push(runs, line.slice(begin), style);
    return runs;
}

/**
 * A line that is written over: each character has a cell.
 * @param {string} line
 * @param {Style} style
 * @returns {Run[]}
 */
function overwrite(line, style) {
    /** @type {[string, Style][]} */
    const cells = [];
    let cursor = 0;
    let begin = 0;
    const write = (/** @type {string} */ text) => {
        for (const character of text) {
            while (cells.length < cursor) cells.push([' ', PLAIN]);
            cells[cursor++] = [character, style];
        }
    };
    for (const match of line.matchAll(TOKEN)) {
        write(line.slice(begin, match.index));
        begin = match.index + match[0].length;
        const n = Number(match[1] || 0);
        if (match[0] === '\r') cursor = 0;
        else if (match[0] === '\b') cursor = Math.max(0, cursor - 1);
        else if (match[3] === 'G' && !match[2]) cursor = Math.max(0, Math.min(cells.length, (n || 1) - 1));
        else if (match[3] === 'K' && !match[2]) erase(cells, cursor, n);
        else style = after(style, match);
    }
    write(line.slice(begin));
    /** @type {Run[]} */
    const runs = [];
    for (const [text, of] of cells) push(runs, text, of);
    return runs;
}

/**
 * @param {[string, Style][]} cells
 * @param {number} cursor
 * @param {number} which 0: to the end, 1: to the cursor, 2: all
 */
function erase(cells, cursor, which) {
    if (which !== 1) cells.length = which === 2 ? 0 : Math.min(cells.length, cursor);
    if (which === 1) for (let i = 0; i <= cursor && i < cells.length; i++) cells[i] = [' ', PLAIN];
}

// ---- Colours

/** The surface of a log is dark in both themes: programs choose their colours for a dark terminal. */
export const SURFACE = 0x0d1117;
export const INK = 0xe6edf3;

/** The 16 colours that have names. */
const NAMED = [
    0x484f58, 0xff7b72, 0x3fb950, 0xd29922, 0x58a6ff, 0xbc8cff, 0x39c5cf, 0xb1bac4, 0x8b949e, 0xffa198, 0x56d364,
    0xe3b341, 0x79c0ff, 0xd2a8ff, 0x56d4dd, 0xffffff,
];

/** A colour as 0xrrggbb. @param {number} colour @param {number} usual for DEFAULT */
export function rgb(colour, usual) {
    if (colour === DEFAULT) return usual;
    if (colour & TRUE) return colour & 0xffffff;
    if (colour < 16) return NAMED[colour];
    if (colour >= 232) return (8 + (colour - 232) * 10) * 0x10101;
    const level = (/** @type {number} */ n) => (n ? 55 + n * 40 : 0);
    const n = colour - 16;
    return (level(Math.floor(n / 36)) << 16) | (level(Math.floor(n / 6) % 6) << 8) | level(n % 6);
}

/** @param {number} colour */
const parts = (colour) => [colour >> 16, (colour >> 8) & 255, colour & 255];

/** @param {number} colour */
function luminance(colour) {
    const [r, g, b] = parts(colour).map((c) => (c <= 10 ? c / 3294.6 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** The contrast of two colours, 1 to 21, as WCAG has it. @param {number} a @param {number} b */
export function contrast(a, b) {
    const [x, y] = [luminance(a), luminance(b)];
    return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
}

/** @param {number} from @param {number} to @param {number} share */
function mix(from, to, share) {
    const [a, b] = [parts(from), parts(to)];
    return a.reduce((sum, c, i) => (sum << 8) | Math.round(c + (b[i] - c) * share), 0);
}

/** The nearest colour that can be read on this ground. @param {number} colour @param {number} ground */
export function readable(colour, ground) {
    const to = contrast(0xffffff, ground) > contrast(0, ground) ? 0xffffff : 0;
    let made = colour;
    for (let share = 0.1; contrast(made, ground) < 4.5 && share <= 1.05; share += 0.1)
        made = mix(colour, to, Math.min(1, share));
    return made;
}

/** @param {number} colour */
export const hex = (colour) => `#${colour.toString(16).padStart(6, '0')}`;

/** @type {Map<string, { color: string, background: string }>} */
const known = new Map();

/** Blocks, lines and Braille patterns, of which programs make pictures. */
const PICTURE = /^[\s\u2500-\u259f\u2800-\u28ff]*$/;

/**
 * The colours of a style for CSS; '' is that of the log. Text can always be read, whatever a program chose; pictures
 * have the colours that they were given.
 * @param {Style} style
 * @param {string} [text]
 */
export function colours(style, text = 'a') {
    const isPicture = PICTURE.test(text);
    const key = `${style.fg} ${style.bg} ${style.flags & (DIM | INVERSE)}${isPicture}`;
    const found = known.get(key);
    if (found) return found;
    let [fg, bg] = [rgb(style.fg, INK), rgb(style.bg, SURFACE)];
    if (style.flags & INVERSE) [fg, bg] = [bg, fg];
    if (style.flags & DIM) fg = mix(fg, bg, 0.4);
    if (!isPicture) fg = readable(fg, bg);
    const made = { color: fg === INK ? '' : hex(fg), background: bg === SURFACE ? '' : hex(bg) };
    // A program can make 2^48 of them.
    if (known.size >= 4096) known.clear();
    known.set(key, made);
    return made;
}
