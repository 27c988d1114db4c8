// @ts-check
// The address is the state: which page, and its filters in the query. Pages are modules that are fetched when needed.

import { Scope } from './scope.js';
import { signal, untracked } from './signals.js';
import { html, mount } from './view.js';

export const BASE = '/ui';

/**
 * A page: gets its scope, the parts of its path and its query, and gives its view.
 * @typedef {{ scope: Scope, params: Record<string, string>, query: Query, title: (text: string) => void }} PageContext
 * @typedef {(context: PageContext) => () => unknown} Page
 * @typedef {{ path: string, load: () => Promise<{ default: Page }> }} Route
 */

/** The query of the address, as signals see it. */
export class Query {
    #params = signal(new URLSearchParams(location.search));

    /** @param {string} name */
    get(name) {
        return this.#params.value.get(name) ?? '';
    }

    /** A list with commas. @param {string} name */
    list(name) {
        return this.get(name).split(',').filter(Boolean);
    }

    all() {
        return Object.fromEntries(this.#params.value);
    }

    /** Changes some, and leaves the others. @param {Record<string, string | string[] | null>} changes @param {{ push?: boolean }} [options] `push`: "back" undoes it */
    set(changes, { push = false } = {}) {
        const next = new URLSearchParams(location.search);
        for (const [name, value] of Object.entries(changes)) {
            const text = Array.isArray(value) ? value.join(',') : value;
            if (text) next.set(name, text);
            else next.delete(name);
        }
        const tail = next.toString().replaceAll('%2C', ',');
        const target = location.pathname + (tail ? `?${tail}` : '');
        if (push) history.pushState(null, '', target);
        else history.replaceState(null, '', target);
        this.read();
    }

    read() {
        this.#params.value = new URLSearchParams(location.search);
    }
}

/** The path of the page that is shown. */
export const path = signal(location.pathname);

/** Goes to another page. @param {string} target */
export function go(target) {
    history.pushState(null, '', target);
    window.dispatchEvent(new PopStateEvent('popstate'));
}

/** The address of a page. @param {string} path @param {Record<string, string | string[]>} [query] */
export function href(path, query = {}) {
    const entries = Object.entries(query).filter(([, value]) => value && value.length);
    const tail = entries.map(([name, value]) => `${name}=${[value].flat().map(encodeURIComponent).join(',')}`).join('&');
    return BASE + path + (tail ? `?${tail}` : '');
}

/** @param {string} pattern @param {string} path @returns {Record<string, string> | null} */
function match(pattern, path) {
    const [wanted, given] = [pattern, path].map((text) => text.split('/').filter(Boolean));
    if (wanted.length !== given.length) return null;
    /** @type {Record<string, string>} */
    const params = {};
    const fits = wanted.every((part, i) => {
        if (!part.startsWith(':')) return part === given[i];
        params[part.slice(1)] = decodeURIComponent(given[i]);
        return true;
    });
    return fits ? params : null;
}

/** The route of an address, with what stands in it. @param {Route[]} routes @param {string} pathname */
function routeOf(routes, pathname) {
    const inner = pathname.slice(BASE.length);
    return routes.map((route) => ({ route, params: safely(() => match(route.path, inner)) })).find((r) => r.params);
}

/** Begins to load the page of the address. @param {Route[]} routes */
export function preload(routes) {
    // One that can't be loaded is told of when it is to be shown.
    routeOf(routes, location.pathname.replace(/\/+$/, '') || BASE)?.route.load().catch(() => {});
}

/**
 * Shows the page of the address in `main`, now and whenever the address changes, until the returned function is called.
 * @param {HTMLElement} main
 * @param {Route[]} routes
 */
export function start(main, routes) {
    let shown = '';
    let scope = new Scope();
    /** @type {Query | null} */
    let query = null;
    let take = () => {};

    /** @param {boolean} byUser */
    async function show(byUser) {
        const pathname = location.pathname.replace(/\/+$/, '') || BASE;
        if (pathname === shown) {
            query?.read();
            return;
        }
        shown = pathname;
        path.value = pathname;
        const route = routeOf(routes, pathname);
        const page = await load(route?.route);
        if (shown !== pathname) return;
        scope.end();
        take();
        scope = new Scope();
        query = new Query();
        const mine = query;
        take = untracked(() => {
            const view = page({
                scope,
                params: route?.params ?? {},
                query: mine,
                title: (text) => {
                    document.title = `${text} · Jobber`;
                },
            });
            return mount(main, view);
        });
        if (byUser) {
            window.scrollTo(0, 0);
            const heading = main.querySelector('h1');
            heading?.setAttribute('tabindex', '-1');
            heading?.focus({ preventScroll: true });
        }
    }

    const all = new Scope();
    all.on(window, 'popstate', () => show(true));
    all.on(document, 'click', (event) => {
        const link = /** @type {Element} */ (event.target).closest?.('a[href]');
        if (!(link instanceof HTMLAnchorElement) || link.target || link.hasAttribute('download') || event.defaultPrevented) return;
        if (event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
        const to = new URL(link.href);
        if (to.origin !== location.origin || !(to.pathname === BASE || to.pathname.startsWith(`${BASE}/`)) || to.hash) return;
        event.preventDefault();
        go(to.pathname + to.search);
    });
    show(false);
    return () => {
        all.end();
        scope.end();
        take();
        shown = ' ';
    };
}

/** @template T @param {() => T} run */
function safely(run) {
    try {
        return run();
    } catch {
        // An address with a broken escape is that of no page.
        return null;
    }
}

/** @param {Route | undefined} route @returns {Promise<Page>} */
async function load(route) {
    if (!route) return ({ title }) => {
        title('No such page');
        return () => html`<h1>No such page</h1><p>Nothing is at this address. <a href="${BASE}/">Go to the overview.</a></p>`;
    };
    try {
        return (await route.load()).default;
    } catch (error) {
        reportError(error);
        return ({ title }) => {
            title('Not loaded');
            return () => html`<h1>This page could not be loaded</h1><p>The server does not answer. Reload when it is back.</p>`;
        };
    }
}
