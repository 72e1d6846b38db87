/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Gathers the code of the application (the libraries that CONFIG_LIBUIO_APP_LIBS
 * and CONFIG_LIBUIO_KEEP_LIBS name; Makefile.uk makes UIO_APP_TEXT of them) in
 * one place behind the kernel's own, so that preempt.c can tell them apart.
 */
SECTIONS
{
	.text.uio_app :
	{
		uio_app_text = .;
		UIO_APP_TEXT
		uio_app_etext = .;
	}
}
INSERT AFTER .text;
