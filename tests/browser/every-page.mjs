// Every page in both themes, wide and narrow, full of texts that would do harm if they were anything but text.

import assert from 'node:assert/strict';

import { api, ended, eventually, given, inspect, open, run, settled, submit, tell } from './browse.mjs';

const HOSTILE = '<img src=x onerror=globalThis.harmed=1><script>globalThis.harmed=1</script>';
const LINK = '\u001b]8;;javascript:globalThis.harmed=1\u0007press me\u001b]8;;\u0007';
/** What depends on colours. The rest of a page is the same in the other theme. */
const COLOURS = ['color-contrast', 'link-in-text-block'];

async function seed() {
    const harm = { arguments: [HOSTILE, LINK], data: { [HOSTILE]: HOSTILE }, attempts: 1 };
    const failed = await submit('hostile', harm);
    const completed = await submit('hello', { arguments: [HOSTILE] });
    const active = await submit('waits', { arguments: [HOSTILE] });
    const delayed = await submit('hello', { delay_ms: 3_600_000, arguments: [HOSTILE] });
    // In a queue of its own, which no worker serves.
    await submit('hello', { queue: '<b>encode</b>' });
    // A group with a job in each of several states.
    await api('POST', '/jobs', { name: 'hostile', array: '0-1', group: 'a<b>&', attempts: 1, arguments: [HOSTILE] });
    await submit('hello', { group: 'a<b>&', delay_ms: 3_600_000 });
    const cancelled = await submit('hello', { delay_ms: 3_600_000 });
    await api('POST', `/jobs/${cancelled}:cancel`, { reason: HOSTILE });
    const retried = await submit('fails-once', { attempts: 3, backoff: { type: 'fixed', delay_ms: 10 } });
    for (const id of [failed, completed, cancelled, retried]) await ended(id);
    await api('POST', '/categories', { name: HOSTILE, description: HOSTILE, examples: [HOSTILE, LINK] });
    const job = { name: 'hello', ...harm };
    await api('PUT', '/schedules/nightly', { cron: '30 2 * * *', tz: 'Europe/Berlin', job });
    const { items } = await eventually('a failure', async () => {
        const failures = await api('GET', '/failures');
        return failures.items.length ? failures : null;
    });
    return { failed, completed, active, delayed, cancelled, fingerprint: items[0].fingerprint };
}

await run(async () => {
    const ids = await seed();
    const paths = [
        '/', '/jobs', '/jobs?state=failed&q=hostile', '/failures', `/failures/${ids.fingerprint}`,
        '/failures?text=onerror', '/categories', '/categories?text=no+space+left', '/retries', '/stats',
        '/stats?tab=cost', '/stats?tab=sizes', '/stats?tab=concurrency', '/stats?tab=builds',
        '/stats?tab=builds&name=fails', '/workers', '/schedules?open=nightly',
        '/queue', '/groups/a<b>&', '/jobs?group=a%3Cb%3E%26', '/submit', '/api', '/no/such/page', '/jobs/no-such-job',
        ...['', '?tab=log', '?tab=data', '?tab=rules'].map((tab) => `/jobs/${ids.failed}${tab}`),
        ...['active', 'delayed'].map((state) => `/jobs/${ids[state]}`),
    ];
    const page = await open('/', { expected: /404/ });
    const began = Date.now();
    for (const path of paths) {
        await page.setViewportSize({ width: 1280, height: 900 });
        await page.emulateMedia({ colorScheme: 'light' });
        await page.goto(`${given.base}/ui${path}`);
        await settled(page);
        if (path.includes('tab=log')) await page.waitForSelector('.log-row');
        for (const width of [1280, 320]) {
            await page.setViewportSize({ width, height: 900 });
            for (const colorScheme of ['light', 'dark']) {
                await page.emulateMedia({ colorScheme });
                await settled(page);
                const rules = colorScheme === 'dark' ? COLOURS : undefined;
                await inspect(page, `${path}, ${colorScheme}, ${width} px`, rules);
            }
        }
        const harm = await page.evaluate(() => ({
            harmed: globalThis.harmed ?? null,
            elements: document.querySelectorAll('main script, main img[src=x], a[href^="javascript:" i]').length,
        }));
        assert.deepEqual(harm, { harmed: null, elements: 0 }, path);
    }
    tell(`${paths.length} pages, each in 2 themes and 2 widths, in ${Date.now() - began} ms`);

    // The texts are there, as texts.
    for (const [path, text] of [
        [`/jobs/${ids.failed}?tab=log`, HOSTILE], [`/jobs/${ids.failed}?tab=log`, 'press me'],
        [`/jobs/${ids.failed}?tab=data`, HOSTILE], [`/jobs/${ids.cancelled}`, HOSTILE],
        [`/jobs/${ids.failed}`, HOSTILE], ['/jobs', HOSTILE], ['/failures', HOSTILE], ['/categories', HOSTILE],
        ['/schedules', HOSTILE], [`/submit?clone=${ids.failed}`, HOSTILE],
    ]) {
        await page.goto(`${given.base}/ui${path}`);
        await page.waitForFunction(
            (text) => {
                const fields = [...document.querySelectorAll('main textarea, main input')];
                return [document.querySelector('main').textContent, ...fields.map((f) => f.value)]
                    .some((shown) => shown.includes(text));
            },
            text,
        ).catch(() => assert.fail(`${path} does not show ${text}`));
    }
});
