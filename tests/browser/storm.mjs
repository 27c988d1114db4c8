// A thousand events a second: the list of jobs and the overview stay quick and small, and an action answers.

import assert from 'node:assert/strict';

import { api, ended, given, isLong, open, run, settled, submit, tell } from './browse.mjs';
import { storming } from './proxies.mjs';

const SECONDS = isLong ? 300 : 15;
const PER_SECOND = 1000;
/** Other tests compute at the same time, so this only finds what is grossly wrong, in ms; the figures are printed. */
const LONGEST_TASK = 500;
const MOST_P99 = 250;
const MOST_NODES = 3000;

const figures = (page) => page.evaluate(() => {
    const late = globalThis.late.toSorted((a, b) => a - b);
    return {
        longTasks: globalThis.longTasks.length,
        longest: Math.max(0, ...globalThis.longTasks),
        p99: late[Math.floor(late.length * 0.99)],
        nodes: document.querySelectorAll('*').length,
    };
});

await run(async () => {
    const failed = [];
    for (let i = 0; i < 30; i++) failed.push(await submit('fails', { attempts: 1 }));
    for (const id of failed) await ended(id);
    const { items } = await api('GET', '/jobs');
    const storm = await storming(given.base, PER_SECOND, (n) => {
        const at = new Date().toISOString();
        // One job in three is new; the others are on the page. The first row is left alone, to be acted on.
        if (n % 3 === 0) return { type: 'submitted', job: `storm-${n}`, name: 'fails', at };
        const { id, name } = items[1 + (n % (items.length - 1))];
        const known = { job: id, name, at, attempt: 1 };
        return n % 3 === 1
            ? { ...known, type: 'attempt_started' }
            : { ...known, type: 'finished', state: 'failed', outcome: { kind: 'exit', code: n % 200 } };
    });
    try {
        const jobs = await open('/jobs', { base: storm.base });
        const overview = await open('/', { base: storm.base, within: jobs.context() });
        for (const page of [jobs, overview]) {
            await page.evaluate(() => {
                globalThis.longTasks = [];
                globalThis.late = [];
                new PerformanceObserver((list) => {
                    for (const task of list.getEntries()) globalThis.longTasks.push(Math.round(task.duration));
                }).observe({ type: 'longtask' });
                let last = performance.now();
                setInterval(() => {
                    const now = performance.now();
                    globalThis.late.push(Math.max(0, Math.round(now - last - 10)));
                    last = now;
                }, 10);
            });
        }
        const session = await jobs.context().newCDPSession(jobs);
        const heap = async () => {
            await session.send('HeapProfiler.collectGarbage');
            return (await session.send('Runtime.getHeapUsage')).usedSize / 1e6;
        };
        await jobs.waitForSelector('.arrivals');
        const before = await heap();
        await jobs.waitForTimeout(SECONDS * 1000);

        // A row that is acted on in the midst of it.
        await jobs.bringToFront();
        const began = Date.now();
        await jobs.keyboard.press('j');
        await jobs.keyboard.press('r');
        await jobs.waitForSelector('.toast');
        const took = Date.now() - began;
        assert.match(await jobs.textContent('.toast'), /put back/);
        const grown = (await heap()) - before;
        tell(`${storm.sent()} events in ${SECONDS} s, heap +${grown.toFixed(1)} MB, the action answered in ${took} ms`);
        assert.ok(storm.sent() >= SECONDS * PER_SECOND * 0.8, `only ${storm.sent()} events`);
        for (const [name, page] of Object.entries({ jobs, overview })) {
            const seen = await figures(page);
            tell(`${name}: ${JSON.stringify(seen)}`);
            assert.ok(seen.longest <= LONGEST_TASK && seen.p99 <= MOST_P99, `${name}: ${JSON.stringify(seen)}`);
            assert.ok(seen.nodes <= MOST_NODES, `${name}: ${JSON.stringify(seen)}`);
        }
        assert.ok(took <= 5000, `${took} ms`);
        assert.ok(grown <= 20, `${grown} MB`);
        await jobs.click('.arrivals');
        await settled(jobs);
        // The storm ends after its pages: they would report broken connections.
        await jobs.context().close();
    } finally {
        storm.close();
    }
});
