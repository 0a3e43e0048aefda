// Package engines moves models whose engines are programs that a configuration names.
package engines
