// Package mixmail carries session messages as mail to a mix.
//
//	letter.go  the mail: what the mix needs, and the message
//	smtp.go    handing it to a mail server
//
// What never belongs here: what is in a message, and what a mix does with it.
package mixmail
