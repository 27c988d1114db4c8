// What the scripts share: Chromium, pages that are watched, the server's API, and what a script is told and tells.
//
//   node SCRIPT.mjs '{"base": "http://127.0.0.1:3000", ...}'

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

import { chromium } from 'playwright-core';

/** What the test that started the script gives it. */
export const given = JSON.parse(process.argv[2] ?? '{}');
/** How long anything may take, in ms: generous, because machines differ. */
const PATIENCE = 120_000;
export const isLong = process.env.JOBBER_TEST_LONG === '1';
const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const ARGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking'];

/** What pages have complained of. */
const complaints = [];
let browser;

/** Says a figure to whoever runs the test. */
export const tell = (text) => console.log(text);

/**
 * A page in a browser context of its own, unless one is given. What it complains of fails the script: errors on its
 * console, exceptions, refusals of its content policy, requests to other hosts.
 */
export async function open(path, { base = given.base, theme = 'light', width = 1280, within, expected } = {}) {
    // Without motion: a colour on its way to another is no colour to be judged.
    const settings = { viewport: { width, height: 900 }, colorScheme: theme, reducedMotion: 'reduce' };
    const context = within ?? (await browser.newContext(settings));
    const page = await context.newPage();
    page.setDefaultTimeout(PATIENCE);
    const complain = (what) => expected?.test(what) || complaints.push(`${page.url()}: ${what}`);
    page.on('console', (m) => ['error', 'warning'].includes(m.type()) && complain(`${m.type()}: ${m.text()}`));
    page.on('pageerror', (error) => complain(`exception: ${error.stack}`));
    page.on('request', (request) => {
        const url = new URL(request.url());
        if (url.protocol !== 'data:' && url.origin !== new URL(base).origin) complain(`foreign request: ${url}`);
    });
    await page.addInitScript(() => {
        addEventListener('securitypolicyviolation', (event) => {
            console.error(`refused by the policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`);
        });
    });
    await page.goto(`${base}/ui${path}`);
    await settled(page);
    return page;
}

/** Waits until the page shows what it has asked for. */
export async function settled(page) {
    await page.waitForSelector('main h1');
    await page.waitForFunction(() => !document.querySelector('main .loading'));
    // Signals are run in a frame, and the browser paints after it.
    await page.evaluate(() => new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go))));
}

/** Fails when the page is wider than the window, or axe finds something. */
export async function inspect(page, what, rules) {
    const width = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.ok(width[0] <= width[1], `${what} is ${width[0]} px wide in a window of ${width[1]} px`);
    const session = await page.context().newCDPSession(page);
    await session.send('Runtime.evaluate', { expression: `window.axe || ${AXE.replace(/^\/\*[^]*?\*\//, '')}` });
    await session.detach();
    const found = await page.evaluate(async (rules) => {
        const only = rules ? { runOnly: { type: 'rule', values: rules } } : {};
        const { violations } = await window.axe.run(document, { resultTypes: ['violations'], ...only });
        return violations.map(({ id, nodes }) => `${id}: ${nodes.map((n) => `${n.target} ${n.failureSummary}`)}`);
    }, rules);
    assert.deepEqual(found, [], what);
}

/** Asks the server. */
export async function api(method, path, body, headers = {}) {
    const response = await fetch(`${given.base}/api/v1${path}`, {
        method,
        headers: { ...(body === undefined ? {} : { 'Content-Type': 'application/json' }), ...headers },
        body: body === undefined ? undefined : JSON.stringify(body),
    });
    const answer = await response.json();
    assert.ok(response.ok, `${method} ${path}: ${response.status} ${JSON.stringify(answer)}`);
    return answer;
}

/** Waits until something is so, for so many ms at most. */
export async function eventually(what, look, patience = PATIENCE) {
    for (const until = Date.now() + patience; Date.now() < until; ) {
        const found = await look();
        if (found) return found;
        await new Promise((go) => setTimeout(go, 50));
    }
    throw new Error(`waited in vain for: ${what}`);
}

/** Submits a job and gives its id. */
export const submit = async (name, rest = {}, headers) => (await api('POST', '/jobs', { name, ...rest }, headers)).id;

/** The job, once history knows its end. */
export const ended = (id, headers) =>
    eventually(`the end of ${id}`, async () => {
        const job = await api('GET', `/jobs/${id}?wait=5`, undefined, headers);
        return ['completed', 'failed'].includes(job.state) ? job : null;
    });

/** Runs a script with a browser. */
export async function run(script) {
    browser = await chromium.launch({ executablePath: given.chromium, args: ARGS });
    try {
        await script(browser);
    } finally {
        // Before the error of the script, whose reason they often are.
        for (const complaint of complaints) console.error(complaint);
        await browser.close();
    }
    assert.deepEqual(complaints, [], 'the pages complained');
}
