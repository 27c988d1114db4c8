// @ts-check
// Templates that become DOM. A template is parsed once; each use of it is a copy whose holes are filled, and filled
// again when the values change. Text only ever becomes text nodes: what a job prints can't become markup.
//
//   html`<p class="note">${text}</p>`          text, a template, a list, a node, or a function that gives one of them
//   <a href=${url} class="a ${b}">             attributes; null and false take them away, true leaves them empty
//   <div style=${{ width: '3px' }}>            single properties, through the CSSOM, as the policy forbids style texts
//   <input .value=${v} @input=${f} ref=${f}>   a property, an event, the element itself
//   each(items, key, template)                 a list whose rows move with their keys
//
// White space with a line break in it between tags and texts does not count.

import { effect } from './signals.js';

const SVG = 'http://www.w3.org/2000/svg';
const VOID = new Set(['area', 'br', 'col', 'hr', 'img', 'input', 'link', 'meta', 'source', 'wbr']);

/** @typedef {{ strings: TemplateStringsArray, values: unknown[], svg: boolean }} Template */
/** @typedef {{ at: number[], kind: 'child' } | { at: number[], kind: 'attribute', name: string, texts: string[] }} Hole */
/** @typedef {{ content: DocumentFragment, holes: Hole[] }} Compiled */
/** @typedef {{ fill: (values: unknown[]) => void, dispose: () => void, holes: number }} Part */

/** @type {WeakMap<TemplateStringsArray, Compiled>} */
const compiled = new WeakMap();

/** @param {TemplateStringsArray} strings @param {...unknown} values @returns {Template} */
export function html(strings, ...values) {
    return { strings, values, svg: false };
}

/** The same for what stands within an `<svg>`. @param {TemplateStringsArray} strings @param {...unknown} values @returns {Template} */
export function svg(strings, ...values) {
    return { strings, values, svg: true };
}

class List {
    /** @param {Iterable<any>} items @param {(item: any, index: number) => unknown} key @param {(item: any, index: number) => unknown} row */
    constructor(items, key, row) {
        this.items = items;
        this.key = key;
        this.row = row;
    }
}

/**
 * A list whose rows keep their elements as long as their keys stay.
 * @template T
 * @param {Iterable<T>} items
 * @param {(item: T, index: number) => unknown} key
 * @param {(item: T, index: number) => unknown} row
 */
export function each(items, key, row) {
    return new List(items, key, row);
}

/**
 * Shows a view in an element, and again when signals that it reads have changed.
 * @param {Element} element
 * @param {() => unknown} view
 * @returns {() => void} takes it away
 */
export function mount(element, view) {
    const anchor = document.createComment('');
    element.append(anchor);
    const part = new Child(anchor);
    const end = effect(() => part.set(view()));
    return () => {
        end();
        part.dispose();
        part.clear();
        anchor.remove();
    };
}

// ---- Parsing

/** @param {Template} template @returns {Compiled} */
function compile(template) {
    const known = compiled.get(template.strings);
    if (known) return known;
    const made = parse(template.strings, template.svg);
    compiled.set(template.strings, made);
    return made;
}

/** @param {string} text */
function squeeze(text) {
    return text.replace(/^\s*\n\s*|\s*\n\s*$/g, '').replace(/\s+/g, ' ');
}

/** @param {TemplateStringsArray} strings @param {boolean} isSvg @returns {Compiled} */
function parse(strings, isSvg) {
    const content = document.createDocumentFragment();
    /** @type {{ node: Node, hole: Hole }[]} */
    const found = [];
    /** @type {(Element | DocumentFragment)[]} */
    const open = [content];
    /** @type {Element | null} The element whose attributes are being read. */
    let tag = null;
    /** @type {{ name: string, texts: string[] } | null} The attribute whose quoted value is being read. */
    let quoted = null;
    const top = () => open[open.length - 1];
    const within = () => isSvg || open.some((e) => e instanceof SVGElement);
    const fail = (/** @type {string} */ why) => new SyntaxError(`${why} in the template ${strings.join('${…}')}`);

    strings.forEach((text, index) => {
        let at = 0;
        /** @param {RegExp} pattern */
        const take = (pattern) => {
            pattern.lastIndex = at;
            const match = pattern.exec(text);
            if (match) at = pattern.lastIndex;
            return match;
        };
        let holeName = '';
        if (quoted && !text) quoted.texts.push('');
        while (at < text.length) {
            if (quoted) {
                const end = text.indexOf('"', at);
                quoted.texts.push(text.slice(at, end < 0 ? undefined : end));
                at = end < 0 ? text.length : end + 1;
                if (end < 0) break;
                const element = /** @type {Element} */ (tag);
                if (quoted.texts.length === 1) element.setAttribute(quoted.name, quoted.texts[0]);
                else found.push({ node: element, hole: { at: [], kind: 'attribute', ...quoted } });
                quoted = null;
            } else if (tag) {
                take(/\s+/y);
                if (at === text.length) break;
                if (take(/\/>/y)) {
                    open.pop();
                    tag = null;
                } else if (take(/>/y)) {
                    if (VOID.has(tag.localName)) open.pop();
                    tag = null;
                } else {
                    const name = take(/[^\s=>/"]+/y)?.[0];
                    if (!name) throw fail('no attribute name');
                    if (!take(/=/y)) tag.setAttribute(name, '');
                    else if (take(/"/y)) quoted = { name, texts: [] };
                    else if (at === text.length) holeName = name;
                    else tag.setAttribute(name, take(/[^\s>]+/y)?.[0] ?? '');
                    if (quoted && at === text.length) quoted.texts.push('');
                }
            } else if (take(/<\/([\w-]+)\s*>/y)) {
                open.pop();
                if (!open.length) throw fail('an end without a beginning');
            } else {
                const match = take(/<([a-zA-Z][\w-]*)/y);
                if (match) {
                    const isInSvg = match[1] === 'svg' || within();
                    tag = isInSvg ? document.createElementNS(SVG, match[1]) : document.createElement(match[1]);
                    top().append(tag);
                    open.push(tag);
                } else {
                    const plain = squeeze(take(/[^<]+/y)?.[0] ?? '');
                    if (plain) top().append(plain);
                }
            }
        }
        if (index === strings.length - 1) return;
        if (quoted) return;
        if (tag) {
            if (!holeName) throw fail('a value where an attribute name is expected');
            found.push({ node: tag, hole: { at: [], kind: 'attribute', name: holeName, texts: ['', ''] } });
        } else {
            const anchor = document.createComment('');
            top().append(anchor);
            found.push({ node: anchor, hole: { at: [], kind: 'child' } });
        }
    });
    if (open.length !== 1) throw fail('an element without an end');
    for (const { node, hole } of found) hole.at = pathTo(node, content);
    return { content, holes: found.map((f) => f.hole) };
}

/** @param {Node} node @param {Node} root */
function pathTo(node, root) {
    const path = [];
    for (let at = node; at !== root; at = /** @type {Node} */ (at.parentNode)) {
        path.unshift([.../** @type {Node} */ (at.parentNode).childNodes].indexOf(/** @type {ChildNode} */ (at)));
    }
    return path;
}

// ---- Copies of templates

/** One use of a template. */
class Copy {
    /** @param {Template} template */
    constructor(template) {
        const { content, holes } = compile(template);
        const fragment = document.importNode(content, true);
        this.strings = template.strings;
        const nodes = holes.map((hole) => hole.at.reduce((/** @type {Node} */ node, i) => node.childNodes[i], fragment));
        /** @type {Part[]} */
        this.parts = holes.map((hole, i) =>
            hole.kind === 'child'
                ? new Child(/** @type {Comment} */ (nodes[i]))
                : attribute(/** @type {Element} */ (nodes[i]), hole.name, hole.texts),
        );
        this.only = fragment.childNodes.length === 1 && fragment.firstChild instanceof Element;
        if (!this.only) fragment.prepend(document.createComment(''));
        this.first = /** @type {ChildNode} */ (fragment.firstChild);
        this.last = /** @type {ChildNode} */ (fragment.lastChild);
        // Events and references are set when the element has its other attributes; all are set before it is shown.
        this.fill(template.values);
        this.fragment = fragment;
    }

    /** @param {unknown[]} values */
    fill(values) {
        let at = 0;
        for (const part of this.parts) {
            part.fill(values.slice(at, at + part.holes));
            at += part.holes;
        }
    }

    /** Moves or inserts it. @param {Node} parent @param {Node | null} before */
    place(parent, before) {
        if (this.first.parentNode === null || this.first.parentNode === this.fragment) {
            parent.insertBefore(this.fragment, before);
            return;
        }
        for (let node = this.first; ; ) {
            const next = /** @type {ChildNode} */ (node.nextSibling);
            parent.insertBefore(node, before);
            if (node === this.last) return;
            node = next;
        }
    }

    remove() {
        for (let node = this.first; ; ) {
            const next = /** @type {ChildNode} */ (node.nextSibling);
            node.remove();
            if (node === this.last) return;
            node = next;
        }
    }

    dispose() {
        for (const part of this.parts) part.dispose();
    }
}

/** A hole between elements. @implements {Part} */
class Child {
    holes = 1;
    /** @type {Copy | null} */
    copy = null;
    /** @type {ChildNode | null} */
    node = null;
    /** @type {Map<unknown, { part: Child, anchor: Comment }> | null} */
    rows = null;
    /** @type {(() => void) | null} */
    end = null;
    /** @type {unknown} */
    source = null;

    /** @param {Comment} anchor what it shows stands before this */
    constructor(anchor) {
        this.anchor = anchor;
    }

    /** @param {unknown[]} values */
    fill([value]) {
        if (typeof value === 'function') {
            if (this.source === value) return;
            this.end?.();
            this.source = value;
            this.end = effect(() => this.set(value()));
        } else {
            this.end?.();
            this.end = this.source = null;
            this.set(value);
        }
    }

    /** @param {unknown} value */
    set(value) {
        if (value === null || value === undefined || typeof value === 'boolean') this.clear();
        else if (value instanceof List) this.list([...value.items], value.key, value.row);
        else if (Array.isArray(value)) this.list(value, (_, index) => index, (item) => item);
        else if (value instanceof Node) this.replace(/** @type {ChildNode} */ (value));
        else if (typeof value === 'object' && 'strings' in value) this.template(/** @type {Template} */ (value));
        else this.text(String(value));
    }

    /** @param {string} text */
    text(text) {
        if (this.node instanceof Text) {
            if (this.node.data !== text) this.node.data = text;
        } else {
            this.replace(document.createTextNode(text));
        }
    }

    /** @param {ChildNode} node */
    replace(node) {
        if (this.node === node) return;
        this.clear();
        this.node = node;
        this.anchor.before(node);
    }

    /** @param {Template} template */
    template(template) {
        if (this.copy?.strings === template.strings) {
            this.copy.fill(template.values);
            return;
        }
        this.clear();
        this.copy = new Copy(template);
        this.copy.place(/** @type {Node} */ (this.anchor.parentNode), this.anchor);
    }

    /** @param {any[]} items @param {(item: any, index: number) => unknown} key @param {(item: any, index: number) => unknown} row */
    list(items, key, row) {
        if (!this.rows) this.clear();
        const parent = /** @type {Node} */ (this.anchor.parentNode);
        const old = this.rows ?? new Map();
        /** @type {NonNullable<Child['rows']>} */
        const rows = new Map();
        const keys = items.map(key);
        const kept = new Set(keys);
        for (const [key, { part, anchor }] of old) {
            if (kept.has(key)) continue;
            part.dispose();
            part.clear();
            anchor.remove();
        }
        // Walks from the end, so that each row knows what stands behind it.
        /** @type {Node} */
        let before = this.anchor;
        for (let i = items.length - 1; i >= 0; i--) {
            if (rows.has(keys[i])) {
                reportError(new Error(`two rows have the key ${String(keys[i])}`));
                continue;
            }
            let entry = old.get(keys[i]);
            if (!entry) {
                const anchor = document.createComment('');
                parent.insertBefore(anchor, before);
                entry = { anchor, part: new Child(anchor) };
            } else if (entry.anchor.nextSibling !== before) {
                entry.part.move(parent, before);
                parent.insertBefore(entry.anchor, before);
            }
            entry.part.fill([row(items[i], i)]);
            rows.set(keys[i], entry);
            before = entry.part.start();
        }
        this.rows = rows;
    }

    /** The first node that it shows. @returns {Node} */
    start() {
        if (this.copy) return this.copy.first;
        if (this.node) return this.node;
        // The rows were noted from the last to the first.
        const first = this.rows && [...this.rows.values()].at(-1);
        return first ? first.part.start() : this.anchor;
    }

    /** @param {Node} parent @param {Node} before */
    move(parent, before) {
        if (this.copy) this.copy.place(parent, before);
        if (this.node) parent.insertBefore(this.node, before);
        for (const { part, anchor } of [...(this.rows?.values() ?? [])].reverse()) {
            part.move(parent, before);
            parent.insertBefore(anchor, before);
        }
    }

    clear() {
        this.copy?.dispose();
        this.copy?.remove();
        this.node?.remove();
        for (const { part, anchor } of this.rows?.values() ?? []) {
            part.dispose();
            part.clear();
            anchor.remove();
        }
        this.copy = this.node = this.rows = null;
    }

    dispose() {
        this.end?.();
        this.end = this.source = null;
        this.copy?.dispose();
        for (const { part } of this.rows?.values() ?? []) part.dispose();
    }
}

/** A hole, or several, in one attribute. @param {Element} element @param {string} name @param {string[]} texts @returns {Part} */
function attribute(element, name, texts) {
    const holes = texts.length - 1;
    const set = setter(element, name);
    /** @type {unknown[]} */
    let last = [];
    return {
        holes,
        fill: (values) => {
            if (values.length === last.length && values.every((value, i) => Object.is(value, last[i]))) return;
            last = values;
            const isWhole = holes === 1 && texts.every((text) => text === '');
            set(isWhole ? values[0] : texts.map((text, i) => (i ? `${values[i - 1] ?? ''}${text}` : text)).join(''));
        },
        dispose: () => {
            if (name === 'ref' && typeof last[0] === 'function') last[0](null);
        },
    };
}

/** @param {Element} element @param {string} name @returns {(value: any) => void} */
function setter(element, name) {
    if (name.startsWith('@')) {
        const handler = { handleEvent: (/** @type {Event} */ _) => {} };
        let listens = false;
        return (value) => {
            handler.handleEvent = value || (() => {});
            if (!listens) element.addEventListener(name.slice(1), handler);
            listens = true;
        };
    }
    if (name.startsWith('.')) {
        const property = name.slice(1);
        return (value) => {
            // Setting what is there already would move the caret of an input.
            if (/** @type {any} */ (element)[property] !== value) /** @type {any} */ (element)[property] = value;
        };
    }
    if (name === 'ref') return (value) => value?.(element);
    if (name === 'style') {
        return (value) => {
            const style = /** @type {HTMLElement} */ (element).style;
            for (const [property, text] of Object.entries(value)) style.setProperty(property, String(text));
        };
    }
    if (name.startsWith('on')) throw new Error(`write @${name.slice(2)} for a listener, not ${name}`);
    return (value) => {
        if (value === null || value === undefined || value === false) element.removeAttribute(name);
        else element.setAttribute(name, value === true ? '' : String(value));
    };
}
