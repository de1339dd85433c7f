/* What a copy of the library looks like from outside. */
int SSL_write(void *ssl, const void *bytes, int length) { return ssl && bytes ? length : 0; }
int SSL_write_ex(void *ssl, const void *bytes, unsigned long length, unsigned long *written) {
    return ssl && bytes && (*written = length) ? 1 : 0;
}
