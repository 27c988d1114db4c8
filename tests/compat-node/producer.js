// A producer and a listener that know nothing of Jobber. Prints one JSON object about what they saw.
//
//   node producer.js PORT

const { Queue, QueueEvents } = require('bullmq');

const connection = { host: '127.0.0.1', port: Number(process.argv[2]) };
const LONG = 60_000;

async function main() {
  const queue = new Queue('my-job-queue', { connection });
  const events = new QueueEvents('my-job-queue', { connection, lastEventId: '0-0' });
  await events.waitUntilReady();
  const seen = {};
  for (const name of ['added', 'active', 'progress', 'completed', 'failed', 'delayed']) {
    seen[name] = [];
    events.on(name, (event) => seen[name].push(event));
  }

  const single = await queue.add('echo', ['one', 'two']);
  const bulk = await queue.addBulk([
    { name: 'echo', data: ['b1'] },
    { name: 'echo', data: ['b2'], opts: { priority: 3 } },
    { name: 'stdin', data: { rows: 5 } },
  ]);
  const delayed = await queue.add('echo', ['later'], { delay: 300 });
  const failing = await queue.add('fail', [], { attempts: 2, backoff: { type: 'fixed', delay: 50 } });
  const missing = await queue.add('no/such', [], { attempts: 5 });

  const ended = {};
  for (const job of [single, ...bulk, delayed]) {
    ended[job.id] = await job.waitUntilFinished(events, LONG);
  }
  const reasons = {};
  for (const [name, job] of Object.entries({ failing, missing })) {
    try {
      await job.waitUntilFinished(events, LONG);
    } catch (error) {
      reasons[name] = error.message;
    }
  }
  const again = await queue.getJob(failing.id);
  const logs = await queue.getJobLogs(single.id);
  console.log(
    JSON.stringify({
      returned: [single, ...bulk, delayed].map((job) => ended[job.id]),
      reasons,
      attemptsMade: again.attemptsMade,
      logs: logs.logs,
      singleId: single.id,
      counts: await queue.getJobCounts(),
      seen: Object.fromEntries(Object.entries(seen).map(([name, list]) => [name, list.map((e) => e.jobId)])),
    }),
  );
  await events.close();
  await queue.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
