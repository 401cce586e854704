// node follow.mjs http://HOST:PORT ADDRESS…
const [server, ...addresses] = process.argv.slice(2);
let last = ""; // keep it where it survives the program
for (;;) {
  try {
    const body = JSON.stringify({addresses, last_id: last}), headers = {"Content-Type": "application/json"};
    const answer = await fetch(server + "/v1/stream", {method: "POST", headers, body});
    let text = "";
    for await (const piece of answer.body.pipeThrough(new TextDecoderStream())) {
      const events = (text += piece).split("\n\n");
      text = events.pop(); // what is not whole yet
      for (const event of events) {
        const {id, data} = Object.fromEntries(event.split("\n").map(line => line.split(/: (.*)/, 2)));
        const {block, changed, reason} = JSON.parse(data ?? "{}");
        if (block) console.log(block.type, block.height, changed); // here you call your hook
        if (reason) console.error("the stream ended:", reason);
        last = id ?? last; // as soon as the hook has taken it
      }
    }
  } catch (error) { console.error(String(error)); }
  await new Promise(done => setTimeout(done, 3000));
}
