// Who may look sees no action and is refused when acting by hand; who may act acts; hidden data is nowhere.

import assert from 'node:assert/strict';

import { ended, given, inspect, open, run, settled, submit } from './browse.mjs';

const OPERATOR = { Authorization: `Bearer ${given.token}` };
const ACTIONS = /^(retry|cancel|remove|submit|pause|resume|drain|run now|edit|add|clean up|promote)\b/i;

async function signIn(page, token) {
    await page.fill('[name=token]', token);
    await page.keyboard.press('Enter');
}

await run(async () => {
    const job = await submit('fails', { attempts: 1, group: 'g', arguments: ['a-secret'], data: 'a-secret' }, OPERATOR);
    await ended(job, OPERATOR);
    // The browser itself reports what the server refuses.
    const page = await open(`/jobs/${job}`, { expected: /status of (401|403)/ });
    for (const [width, colorScheme] of [[1280, 'light'], [320, 'dark'], [320, 'light'], [1280, 'dark']]) {
        await page.setViewportSize({ width, height: 900 });
        await page.emulateMedia({ colorScheme });
        await settled(page);
        await inspect(page, `sign-in, ${colorScheme}, ${width} px`);
    }
    assert.equal(await page.evaluate(() => document.activeElement.name), 'token');
    await signIn(page, 'a-wrong-token-of-some-length');
    await page.waitForSelector('[role=alert]');

    await signIn(page, given.viewToken);
    await page.waitForSelector('.chip:has-text("viewer")');
    await settled(page);
    for (const path of [`/jobs/${job}`, '/', '/jobs', '/failures', '/categories', '/workers', '/schedules', '/queue',
        '/groups/g', `/jobs/${job}?tab=log`, `/jobs/${job}?tab=data`, '/submit']) {
        await page.goto(`${given.base}/ui${path}`);
        await settled(page);
        const words = await page.$$eval('main button, main a.button, header a.button', (all) =>
            all.filter((e) => e.checkVisibility()).map((e) => e.textContent.trim()));
        const acting = words.filter((text) => ACTIONS.test(text) && !/^(cancelled|add an example)/i.test(text));
        assert.deepEqual(acting, [], `a viewer's ${path}`);
        const source = await page.content();
        assert.ok(!source.includes('a-secret'), `${path} shows what is hidden`);
    }
    const byHand = await page.evaluate(async (id) => {
        const ask = async (method, path, body) => {
            const response = await fetch(`/api/v1${path}`, {
                method,
                headers: { 'Content-Type': 'application/json' },
                body: body && JSON.stringify(body),
            });
            return [response.status, (await response.json()).code ?? null];
        };
        const shown = await (await fetch(`/api/v1/jobs/${id}`)).text();
        return [
            await ask('POST', `/jobs/${id}:retry`, {}), await ask('POST', '/queue:pause', {}),
            await ask('POST', '/jobs', { name: 'hello' }), await ask('DELETE', `/jobs/${id}`),
            await ask('POST', '/jobs:remove', { name: 'fails' }), await ask('GET', `/jobs/${id}/logs`),
            shown.includes('a-secret'),
        ];
    }, job);
    const refused = [403, 'read_only'];
    assert.deepEqual(byHand, [refused, refused, refused, refused, refused, [403, 'hidden'], false]);

    await page.click('button:has-text("Sign out")');
    await page.waitForSelector('[name=token]');
    await signIn(page, given.token);
    await page.waitForSelector('header a.button:has-text("Submit")');
    await page.goto(`${given.base}/ui/jobs/${job}?tab=data`);
    await page.waitForSelector('main :text("a-secret")');
    await page.click('button:has-text("Retry")');
    await page.waitForSelector('.toast:has-text("queued again")');
    await page.click('button:has-text("Sign out")');
    await page.waitForSelector('[name=token]');
    await page.goto(`${given.base}/ui/jobs`);
    await page.waitForSelector('[name=token]');
    assert.equal(await page.evaluate(async () => (await fetch('/api/v1/jobs')).status), 401);
});
