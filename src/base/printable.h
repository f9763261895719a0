// SPDX-License-Identifier: Apache-2.0
// Text of a guest or a stranger, made fit for JSON, logs and terminals.
#pragma once
#include "base/str.h"

// Appends the bytes as valid UTF-8 of which none does anything to a terminal. Left out are escape
// sequences as a whole (ESC and what belongs to it: CSI, OSC and the other strings, two-character
// ones) and carriage returns. A tab becomes a blank; control characters (C0, DEL, C1), what turns
// the direction of text round (U+200E, U+200F, U+202A to U+202E, U+2066 to U+2069), and each byte
// that is not UTF-8 become '?'. lines: newlines stay; else they are control characters too.
void printable_add(struct strbuf *b, const char *s, size_t len, bool lines);
// The last lines of a text that are not empty, each with its newline: PRINTABLE_TAIL_LINES and
// PRINTABLE_TAIL_BYTES at most, of a longer single line its end. What is given need not be all of
// the text: its last PRINTABLE_TAIL_READ bytes are enough.
#define PRINTABLE_TAIL_LINES 20u
#define PRINTABLE_TAIL_BYTES 4096u
#define PRINTABLE_TAIL_READ (16u << 10)
void printable_tail(struct strbuf *b, const char *text, size_t len);
// The same as printable_add into a buffer, cut at a character's end where it is too long.
void printable_copy(char *out, size_t size, const char *s, size_t len);
