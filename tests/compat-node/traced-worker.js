// A worker that traces by bullmq-otel: runs one job, and prints its id and the span that the job ran in, with its parent.
//
//   node traced-worker.js PORT

const { NodeTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } = require('@opentelemetry/sdk-trace-node');
const { BullMQOtel } = require('bullmq-otel5');
const { Worker, connection, QUEUE } = require('./bull');

const exporter = new InMemorySpanExporter();
new NodeTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }).register();

const worker = new Worker(QUEUE, async () => 'done', { connection, telemetry: new BullMQOtel('worker') });

worker.on('completed', async (job) => {
  await worker.close();
  const span = exporter.getFinishedSpans().find(({ name }) => name.startsWith('process '));
  const parent = span.parentSpanContext ? span.parentSpanContext.spanId : null;
  console.log(JSON.stringify({ id: job.id, trace: span.spanContext().traceId, parent }));
  process.exit(0);
});
