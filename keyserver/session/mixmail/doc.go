// Package mixmail carries session messages as mail to a mix.
//
//	letter.go  the mail: what the mix needs, and the message
//	smtp.go    handing it to a mail server
//	file.go    keeping it in a file, and reading a message that came in one
//
// What never belongs here: what is in a message, and what a mix does with it.
package mixmail
