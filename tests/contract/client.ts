// Submits a job and reads it back, with a client that is typed by the API's description: `node client.js URL`.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

type Job = components["schemas"]["JobView"];

const client = createClient<paths>({ baseUrl: process.argv[2]! });

async function submit(): Promise<string> {
    const { data, error } = await client.POST("/api/v1/jobs", { body: { name: "hello", arguments: ["typescript"] } });
    if (!data) throw new Error(`${error.code}: ${error.detail}`);
    return data.id;
}

async function ended(id: string): Promise<Job> {
    const { data, error } = await client.GET("/api/v1/jobs/{id}", { params: { path: { id }, query: { wait: 30 } } });
    if (!data) throw new Error(`${error.code}: ${error.detail}`);
    return data;
}

const job = await ended(await submit());
const { error } = await client.GET("/api/v1/jobs/{id}", { params: { path: { id: "nobody" } } });
console.log(JSON.stringify({ state: job.state, arguments: job.arguments, unknown: error?.code }));
