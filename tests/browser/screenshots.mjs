// Twelve views with data as a real site has them, into the folder that is given.

import assert from 'node:assert/strict';
import { mkdirSync, statSync } from 'node:fs';

import { api, ended, eventually, given, open, run, settled, submit, tell } from './browse.mjs';

/** A picture in the docs is no larger. */
const MOST_BYTES = 150 * 1024;

async function seed() {
    const backoff = { type: 'fixed', delay_ms: 50 };
    const all = [];
    const add = async (name, rest = {}) => all.push(await submit(name, { attempts: 1, ...rest }));
    for (let i = 1; i <= 24; i++) await add('resize-images', { arguments: [`album-${100 + i}`, '--width', '1600'] });
    for (let i = 1; i <= 9; i++) await add('import-orders', { arguments: [`2026-11-${10 + i}`], attempts: 3, backoff });
    for (let i = 1; i <= 5; i++) await add('render-frame', { arguments: [`scene-${i}`], cores: 1 });
    for (let i = 1; i <= 4; i++) await add('convert-video', { arguments: [`clip-${i}.mov`], attempts: 2, backoff });
    const shown = await submit('import-orders', {
        arguments: ['2026-11-28', '--shop', 'north'],
        data: { shop: 'north', day: '2026-11-28', dry_run: false },
        attempts: 4,
        backoff: { type: 'exponential', delay_ms: 200 },
    });
    for (const id of [...all, shown]) await ended(id);
    await api('PUT', '/schedules/nightly-report', {
        cron: '30 2 * * *', tz: 'Europe/Berlin', job: { name: 'nightly-report', arguments: ['--mail'] } });
    await api('PUT', '/schedules/import-orders', {
        every_ms: 900_000, job: { name: 'import-orders', arguments: ['--latest'], attempts: 3 } });
    await api('PUT', '/schedules/weekly-cleanup', {
        cron: '0 4 * * 0', tz: 'UTC', job: { name: 'resize-images', arguments: ['--purge'] } });
    for (let i = 1; i <= 6; i++) await submit('nightly-report', { arguments: [`region-${i}`] });
    for (let i = 1; i <= 3; i++)
        await submit('resize-images', { delay_ms: 600_000 * i, arguments: [`album-${200 + i}`] });
    await eventually('running jobs', async () => (await api('GET', '/queue')).active > 0);
    const { items } = await api('GET', '/categories');
    const network = items.find(({ name }) => /timeout|network|connection/i.test(name)) ?? items[0];
    return { shown, category: network?.id ?? '' };
}

await run(async () => {
    const { shown, category } = await seed();
    mkdirSync(given.folder, { recursive: true });
    const views = {
        overview: '/',
        jobs: '/jobs',
        job: `/jobs/${shown}`,
        log: `/jobs/${shown}?tab=log`,
        failures: '/failures',
        categories: `/categories?text=connection+refused${category ? `&open=${category}` : ''}`,
        retries: '/retries',
        statistics: '/stats',
        workers: '/workers',
        schedules: '/schedules?open=nightly-report',
        submit: `/submit?clone=${shown}`,
        'overview-dark': '/',
    };
    for (const [name, path] of Object.entries(views)) {
        const page = await open(path, { theme: name.endsWith('dark') ? 'dark' : 'light' });
        await page.waitForTimeout(1200);
        await settled(page);
        const file = `${given.folder}/${name}.png`;
        await page.screenshot({ path: file });
        const { size } = statSync(file);
        tell(`${name}: ${size} bytes`);
        assert.ok(size > 5000 && size <= MOST_BYTES, `${name} has ${size} bytes`);
        await page.context().close();
    }
});
