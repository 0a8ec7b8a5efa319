# Inside the virtual machine: as much of a booted Debian as a command may expect, then
# the command. The host ends the machine when the file `code` appears.
exec </dev/null
mkdir -p /lib/modules
mount --bind "$(cat /run/job/modules)" /lib/modules
[ -e /sbin/modprobe ] || ln -s /bin/busybox /sbin/modprobe
hostname skep-vm
ip link set lo up
# As systemd leaves it: controllers for the groups below, first process in one of its own.
mkdir /sys/fs/cgroup/init.scope
echo $$ >/sys/fs/cgroup/init.scope/cgroup.procs
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
sh /run/job/command >/run/job/output 2>&1
echo $? >/run/job/code.partial
mv /run/job/code.partial /run/job/code
sync
echo o >/proc/sysrq-trigger
sleep 60
