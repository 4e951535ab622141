"use strict";
const connection = document.getElementById("connection");
const main = document.querySelector("main");
const source = new EventSource("events");
source.onopen = () => { connection.textContent = "live"; };
// The text is HTML that the server has escaped.
source.onmessage = (event) => { main.innerHTML = JSON.parse(event.data); };
source.onerror = () => { connection.textContent = "not connected: `fedstrata watch` has ended, or is away"; };
