// Package failpoint marks the places at which tests let the process die. In every
// build without the tag failpoints its functions are empty and leave nothing in
// the binary.
//
// With the tag, FAILPOINT=<point>:<before|after>:<n> ends the process with code 137
// when it comes to that side of that point for the n-th time, as kill -9 would. If
// FAILPOINT_ARM names a file, only times after the file has come to be are counted.
package failpoint
