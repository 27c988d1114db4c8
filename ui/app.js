// @ts-check
// The frame around all pages: the bar with its links, sign-in, keys, and which page is at which address.

import { refreshSession, session, signIn, signOut } from './lib/api.js';
import { bind, bindings } from './lib/keys.js';
import { theme, zone } from './lib/prefs.js';
import { BASE, go, href, path, preload, start } from './lib/router.js';
import { Scope } from './lib/scope.js';
import { effect, signal } from './lib/signals.js';
import { html, mount } from './lib/view.js';
import { dialog, problemNote, showToasts, zoneName } from './lib/widgets.js';

/** @type {import('./lib/router.js').Route[]} */
const ROUTES = [
    { path: '/', load: () => import('./pages/overview.js') },
    { path: '/jobs', load: () => import('./pages/jobs.js') },
    { path: '/jobs/:id', load: () => import('./pages/job.js') },
    { path: '/groups/:group', load: () => import('./pages/group.js') },
    { path: '/failures', load: () => import('./pages/failures.js') },
    { path: '/failures/:fingerprint', load: () => import('./pages/failure.js') },
    { path: '/categories', load: () => import('./pages/categories.js') },
    { path: '/retries', load: () => import('./pages/retries.js') },
    { path: '/stats', load: () => import('./pages/stats.js') },
    { path: '/workers', load: () => import('./pages/workers.js') },
    { path: '/schedules', load: () => import('./pages/schedules.js') },
    { path: '/queue', load: () => import('./pages/queue.js') },
    { path: '/submit', load: () => import('./pages/submit.js') },
    { path: '/api', load: () => import('./pages/api.js') },
];

// What the first page needs is on its way while the bar is made: who is signed in, and the page itself.
const asked = refreshSession();
preload(ROUTES);

/** Name, path, and the second key after `g`. */
const LINKS = [
    ['Overview', '/', 'o'],
    ['Jobs', '/jobs', 'j'],
    ['Failures', '/failures', 'f'],
    ['Retries', '/retries', 'r'],
    ['Statistics', '/stats', 's'],
    ['Workers', '/workers', 'w'],
    ['Schedules', '/schedules', 'c'],
    ['Queue', '/queue', 'q'],
];

const bar = /** @type {HTMLElement} */ (document.getElementById('bar'));
const main = /** @type {HTMLElement} */ (document.getElementById('main'));
const always = new Scope();

/** @param {string} target */
const isCurrent = (target) => {
    const inner = path.value.slice(BASE.length) || '/';
    return target === '/' ? inner === '/' : inner === target || inner.startsWith(`${target}/`);
};

mount(bar, () => html`
    <a class="brand" href=${href('/')}><img src="/ui/icon.svg" alt="" width="20" height="20">Jobber</a>
    <nav aria-label="Pages">${LINKS.map(([name, target]) => html`
        <a href=${href(target)} aria-current=${isCurrent(target) ? 'page' : null}>${name}</a>`)}
    </nav>
    <div class="row tools">
        ${session.value?.role === 'operator' ? html`<a class="button primary" href=${href('/submit')}>Submit</a>` : null}
        ${session.value?.role === 'viewer' ? html`<span class="chip" title="This token may read and not act">viewer</span>` : null}
        <button class="plain" title="Show times in ${zone.value === 'utc' ? 'local time' : 'UTC'}" @click=${() => {
            zone.value = zone.value === 'utc' ? 'local' : 'utc';
        }}>${zone.value === 'utc' ? 'UTC' : 'Local'}</button>
        <button class="plain" title="Theme: ${theme.value}" aria-label="Theme: ${theme.value}" @click=${nextTheme}>${{ system: '◐', light: '☀', dark: '☾' }[theme.value]}</button>
        <button class="plain" title="Keys (?)" aria-label="Keys" @click=${showKeys}>?</button>
        ${session.value?.signed_in_by === 'cookie' ? html`<button class="plain" @click=${signOut}>Sign out</button>` : null}
    </div>`);

showToasts(/** @type {Element} */ (document.getElementById('toasts')));

function nextTheme() {
    const all = ['system', 'light', 'dark'];
    theme.value = all[(all.indexOf(theme.value) + 1) % all.length];
}

function showKeys() {
    dialog('Keys', (close) => () => html`
        <table class="keys"><tbody>${bindings.value.filter((b) => b.help).map((b) => html`
            <tr><th scope="row">${b.keys.split(' ').map((key) => html`<kbd>${key}</kbd> `)}</th><td>${b.help}</td></tr>`)}
        </tbody></table>
        <p class="muted">Times are shown in ${zoneName()}.</p>
        <div class="row end"><button @click=${() => close(null)}>Close</button></div>`);
}

bind(always, {
    ...Object.fromEntries(LINKS.map(([name, target, key]) => [`g ${key}`, [`Go to ${name.toLowerCase()}`, () => go(href(target))]])),
    'g n': ['Submit a job', () => go(href('/submit'))],
    'g a': ['Read the API', () => go(href('/api'))],
    '/': ['Search jobs', () => go(href('/jobs', { focus: 'search' }))],
    '?': ['Show these keys', showKeys],
    t: ['Change the theme', nextTheme],
    u: ['Local time or UTC', () => {
        zone.value = zone.value === 'utc' ? 'local' : 'utc';
    }],
});

/** Asks for the token. */
function signInView() {
    const problem = signal(/** @type {any} */ (null));
    const submit = async (/** @type {SubmitEvent} */ event) => {
        event.preventDefault();
        const form = /** @type {HTMLFormElement} */ (event.target);
        try {
            await signIn(String(new FormData(form).get('token')));
        } catch (error) {
            problem.value = error;
        }
    };
    return () => html`
        <h1>Sign in</h1>
        <p>This server asks for its token: the value of <code>JOBBER_TOKEN</code>, or of <code>JOBBER_VIEW_TOKEN</code> to look only.</p>
        <form class="narrow" @submit=${submit}>
            <input type="text" name="username" autocomplete="username" value="jobber" hidden>
            <label>Token <input type="password" name="token" autocomplete="current-password" required autofocus></label>
            ${problemNote(problem.value)}
            <button class="primary">Sign in</button>
        </form>`;
}

await asked;
let shown = '';
let take = () => {};
effect(() => {
    // Without an answer the pages are shown, and say that the server is away.
    const wanted = session.value?.role === 'none' ? 'sign-in' : 'pages';
    if (wanted === shown) return;
    shown = wanted;
    take();
    if (wanted === 'sign-in') {
        document.title = 'Sign in · Jobber';
        take = mount(main, signInView());
        /** @type {HTMLElement | null} */ (main.querySelector('[autofocus]'))?.focus();
    } else {
        take = start(main, ROUTES);
    }
});
