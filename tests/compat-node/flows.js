// Adds a flow of its own and waits for its end, adds one whose child fails, and looks at the flow called `ours`. Prints
// one JSON object about what it saw.
//
//   node flows.js PORT

const { FlowProducer, Queue, QueueEvents } = require('bullmq');

const connection = { host: '127.0.0.1', port: Number(process.argv[2]) };
const queueName = 'my-job-queue';
const LONG = 60_000;

async function main() {
  const queue = new Queue(queueName, { connection });
  const events = new QueueEvents(queueName, { connection, lastEventId: '0-0' });
  const producer = new FlowProducer({ connection });
  await events.waitUntilReady();

  const good = await producer.add({
    name: 'gather',
    queueName,
    data: [],
    children: ['one', 'two'].map((word) => ({ name: 'echo', queueName, data: [word] })),
  });
  const theirs = await good.job.waitUntilFinished(events, LONG);

  const bad = await producer.add({
    name: 'echo',
    queueName,
    data: ['never'],
    children: [{ name: 'fail', queueName, data: [], opts: { failParentOnFailure: true } }],
  });
  const failed = await bad.job.waitUntilFinished(events, LONG).then(
    () => 'it ran',
    (error) => error.message,
  );

  const flow = await producer.getFlow({ id: 'ours', queueName });
  const ours = await queue.getJob('ours');
  console.log(
    JSON.stringify({
      theirs,
      failed,
      ours: { name: flow.job.name, children: flow.children.map((child) => child.job.id) },
      values: await ours.getChildrenValues(),
    }),
  );
  await producer.close();
  await events.close();
  await queue.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
