// Shows the version of the server.
const session = await (await fetch("/api/v1/session")).json();
document.getElementById("app").textContent = `Jobber ${session.version}`;
