// A thousand events a second: the list of jobs and the overview stay quick and small, and an action answers.

import assert from 'node:assert/strict';

import { api, ended, eventually, given, isLong, open, run, settled, submit, tell } from './browse.mjs';
import { storming } from './proxies.mjs';

const SECONDS = isLong ? 300 : 15;
const PER_SECOND = 1000;
/**
 * How much of a core the main thread of a page may take, 0 to 1. This is CPU time and not how late a task is: other tests
 * compute at the same time, and their share is none of the page's.
 */
const MOST_CPU = 0.5;
const MOST_NODES = 3000;

/** Counts the CPU time of the page's main thread, in seconds; and how late its timers are, to be told. */
async function watch(page) {
    const session = await page.context().newCDPSession(page);
    await session.send('Performance.enable', { timeDomain: 'threadTicks' });
    await page.evaluate(() => {
        globalThis.late = [];
        let last = performance.now();
        setInterval(() => {
            const now = performance.now();
            globalThis.late.push(Math.max(0, Math.round(now - last - 10)));
            last = now;
        }, 10);
    });
    const cpu = async () => {
        const { metrics } = await session.send('Performance.getMetrics');
        return metrics.find(({ name }) => name === 'TaskDuration').value;
    };
    const before = await cpu();
    return async () => ({
        cpu: (await cpu()) - before,
        ...(await page.evaluate(() => {
            const late = globalThis.late.toSorted((a, b) => a - b);
            return {
                lateP99: late[Math.floor(late.length * 0.99)],
                latest: late.at(-1),
                nodes: document.querySelectorAll('*').length,
            };
        })),
    });
}

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
        const watched = { jobs: await watch(jobs), overview: await watch(overview) };
        const session = await jobs.context().newCDPSession(jobs);
        const heap = async () => {
            await session.send('HeapProfiler.collectGarbage');
            return (await session.send('Runtime.getHeapUsage')).usedSize / 1e6;
        };
        await jobs.waitForSelector('.arrivals');
        const before = await heap();
        const first = storm.sent();
        const told = await eventually('the storm', async () => {
            const count = storm.sent() - first;
            return count >= 2 * SECONDS * PER_SECOND && count;
        }, SECONDS * 8000);
        const seen = {};
        for (const [name, look] of Object.entries(watched)) seen[name] = await look();

        // A row that is acted on in the midst of it.
        await jobs.bringToFront();
        const began = Date.now();
        await jobs.keyboard.press('j');
        await jobs.keyboard.press('r');
        await jobs.waitForSelector('.toast');
        const took = Date.now() - began;
        assert.match(await jobs.textContent('.toast'), /put back/);
        const grown = (await heap()) - before;
        tell(`${told} events for two pages, heap +${grown.toFixed(1)} MB, the action answered in ${took} ms`);
        for (const [name, { cpu, nodes, ...late }] of Object.entries(seen)) {
            const figures = { cpuPerSecondOfStorm: cpu / (told / 2 / PER_SECOND), nodes, ...late };
            tell(`${name}: ${JSON.stringify(figures)}`);
            assert.ok(figures.cpuPerSecondOfStorm <= MOST_CPU, `${name}: ${JSON.stringify(figures)}`);
            assert.ok(nodes <= MOST_NODES, `${name}: ${JSON.stringify(figures)}`);
        }
        assert.ok(grown <= 20, `${grown} MB`);
        await jobs.click('.arrivals');
        await settled(jobs);
        // The storm ends after its pages: they would report broken connections.
        await jobs.context().close();
    } finally {
        storm.close();
    }
});
