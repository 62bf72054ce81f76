/*
 * Mounts an NFS export by FUSE, for machines whose kernel has no NFS client. Under the name /sbin/mount.nfs it is what
 * `mount -t nfs`, and so kubelet for volumes of kind nfs, calls:
 *
 *     mount.nfs SERVER:/EXPORT DIRECTORY [OPTION...]
 *
 * Every call goes to the server at once and nothing is kept here: what one client has written, the next one reads. Options
 * of the kernel's client are not looked at, and there are no locks.
 */
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse.h>
#include <nfsc/libnfs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/time.h>

/* FUSE is told to ask for one thing at a time (-s), so that one connection is enough. */
static struct nfs_context *connection;

/* The connection, in the name of the process that asks. */
static struct nfs_context *nfs(void)
{
    struct fuse_context *caller = fuse_get_context();
    nfs_set_uid(connection, caller->uid);
    nfs_set_gid(connection, caller->gid);
    return connection;
}

static struct nfsfh *handle(struct fuse_file_info *file) { return (struct nfsfh *)(uintptr_t)file->fh; }

static int getattr(const char *path, struct stat *to, struct fuse_file_info *file)
{
    struct nfs_stat_64 from;
    int failed = file && file->fh ? nfs_fstat64(nfs(), handle(file), &from) : nfs_lstat64(nfs(), path, &from);
    if (failed)
        return failed;
    memset(to, 0, sizeof *to);
    to->st_ino = from.nfs_ino;
    to->st_mode = from.nfs_mode;
    to->st_nlink = from.nfs_nlink;
    to->st_uid = from.nfs_uid;
    to->st_gid = from.nfs_gid;
    to->st_size = from.nfs_size;
    to->st_blksize = from.nfs_blksize;
    to->st_blocks = from.nfs_blocks;
    to->st_atime = from.nfs_atime;
    to->st_mtime = from.nfs_mtime;
    to->st_ctime = from.nfs_ctime;
    return 0;
}

static int readdir_(const char *path, void *list, fuse_fill_dir_t add, off_t at, struct fuse_file_info *file, enum fuse_readdir_flags flags)
{
    struct nfsdir *folder;
    (void)at, (void)file, (void)flags;
    int failed = nfs_opendir(nfs(), path, &folder);
    if (failed)
        return failed;
    for (struct nfsdirent *entry; (entry = nfs_readdir(connection, folder));)
        add(list, entry->name, 0, 0, 0);
    nfs_closedir(connection, folder);
    return 0;
}

static int open_(const char *path, struct fuse_file_info *file)
{
    struct nfsfh *opened = 0;
    int failed = nfs_open(nfs(), path, file->flags & ~(O_NOFOLLOW | O_CREAT | O_EXCL), &opened);
    file->fh = (uintptr_t)opened;
    return failed;
}

static int create(const char *path, mode_t mode, struct fuse_file_info *file)
{
    struct nfsfh *opened = 0;
    int failed = nfs_create(nfs(), path, file->flags & ~O_NOFOLLOW, mode & 07777, &opened);
    file->fh = (uintptr_t)opened;
    return failed;
}

static int read_(const char *path, char *to, size_t size, off_t at, struct fuse_file_info *file)
{
    (void)path;
    return nfs_pread(nfs(), handle(file), at, size, to);
}

static int write_(const char *path, const char *from, size_t size, off_t at, struct fuse_file_info *file)
{
    (void)path;
    return nfs_pwrite(nfs(), handle(file), at, size, (void *)from);
}

static int fsync_(const char *path, int only_data, struct fuse_file_info *file)
{
    (void)path, (void)only_data;
    return nfs_fsync(nfs(), handle(file));
}

static int release(const char *path, struct fuse_file_info *file)
{
    (void)path;
    return nfs_close(nfs(), handle(file));
}

static int truncate_(const char *path, off_t size, struct fuse_file_info *file)
{
    return file && file->fh ? nfs_ftruncate(nfs(), handle(file), size) : nfs_truncate(nfs(), path, size);
}

static int rename_(const char *from, const char *to, unsigned flags) { return flags ? -EINVAL : nfs_rename(nfs(), from, to); }
static int mkdir_(const char *path, mode_t mode) { return nfs_mkdir2(nfs(), path, mode & 07777); }
static int unlink_(const char *path) { return nfs_unlink(nfs(), path); }
static int rmdir_(const char *path) { return nfs_rmdir(nfs(), path); }
static int link_(const char *from, const char *to) { return nfs_link(nfs(), from, to); }
static int statfs_(const char *path, struct statvfs *to) { return nfs_statvfs(nfs(), path, to); }

static int chmod_(const char *path, mode_t mode, struct fuse_file_info *file)
{
    (void)file;
    return nfs_chmod(nfs(), path, mode & 07777);
}

static int chown_(const char *path, uid_t user, gid_t group, struct fuse_file_info *file)
{
    (void)file;
    return nfs_lchown(nfs(), path, user, group);
}

static int utimens(const char *path, const struct timespec to[2], struct fuse_file_info *file)
{
    struct timeval times[2];
    (void)file;
    for (int i = 0; i < 2; i++) {
        gettimeofday(&times[i], 0);
        if (to[i].tv_nsec != UTIME_NOW && to[i].tv_nsec != UTIME_OMIT)
            times[i] = (struct timeval){to[i].tv_sec, to[i].tv_nsec / 1000};
    }
    return nfs_utimes(nfs(), path, times);
}

static void *init(struct fuse_conn_info *kernel, struct fuse_config *config)
{
    (void)kernel;
    config->use_ino = config->direct_io = 1;
    config->attr_timeout = config->entry_timeout = config->negative_timeout = 0;
    return 0;
}

static const struct fuse_operations operations = {
    .init = init, .getattr = getattr, .readdir = readdir_, .open = open_, .create = create, .read = read_, .write = write_,
    .fsync = fsync_, .release = release, .truncate = truncate_, .rename = rename_, .mkdir = mkdir_, .unlink = unlink_,
    .rmdir = rmdir_, .link = link_, .statfs = statfs_, .chmod = chmod_, .chown = chown_, .utimens = utimens,
};

int main(int count, char **arguments)
{
    char *export = count < 3 ? 0 : strchr(arguments[1], ':');
    if (!export) {
        fprintf(stderr, "usage: %s SERVER:/EXPORT DIRECTORY\n", arguments[0]);
        return 1;
    }
    *export++ = 0;
    connection = nfs_init_context();
    /* libnfs 4.0 cannot write more than 4 KiB at a time by version 4. */
    nfs_set_version(connection, 3);
    if (nfs_mount(connection, arguments[1], export)) {
        fprintf(stderr, "%s:%s: %s\n", arguments[1], export, nfs_get_error(connection));
        return 32;
    }
    nfs_umask(connection, 0);
    char *serve[] = {arguments[0], arguments[2], "-s", "-o", "allow_other,default_permissions,subtype=nfs,fsname=nfs", 0};
    return fuse_main(5, serve, &operations, 0);
}
