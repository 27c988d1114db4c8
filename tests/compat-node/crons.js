// Puts schedulers in place whose timing only cron-parser writes like that, and waits until each has run twice.
//
//   BULLMQ=bullmq|bullmq6 node crons.js PORT

const { eventually, run } = require('./bull');

run(async (queue, events) => {
  const ran = { steps: new Set(), zone: new Set(), question: new Set() };
  events.on('completed', ({ jobId }) => {
    const [, name] = jobId.split(':');
    if (ran[name]) ran[name].add(jobId);
  });
  await queue.upsertJobScheduler('steps', { pattern: '0/2 * * * * *' }, { name: 'echo', data: ['steps'] });
  await queue.upsertJobScheduler('zone', { pattern: '*/2 * * * * *', tz: 'utc' }, { name: 'echo', data: ['zone'] });
  await queue.upsertJobScheduler('question', { pattern: '1/2 * * ? * ?', tz: 'europe/berlin' }, { name: 'echo', data: [] });
  await eventually('two jobs of each', () => Object.values(ran).every((ids) => ids.size >= 3));
  return Object.fromEntries(Object.entries(ran).map(([name, ids]) => [name, ids.size]));
});
