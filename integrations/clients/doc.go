// Package clients has no code: its tests hold the front end of modeltier against other
// people's clients, with a stand-in engine and with a real llama.cpp.
package clients
