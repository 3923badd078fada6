// A broker that speaks 3.1.1, on the port that it is given or one of the system's choice, which it prints.
'use strict'
const { createServer } = require('node:net')
const { Aedes } = require('aedes')

Aedes.createBroker().then((broker) => {
  const server = createServer(broker.handle)
  server.listen(Number(process.argv[2] ?? 0), '127.0.0.1', () => console.log(server.address().port))
})
// It ends with whoever started it, also where that one was killed.
process.stdin.resume().on('end', () => process.exit())
